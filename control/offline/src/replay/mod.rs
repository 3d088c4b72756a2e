//! `heddle replay`: runs captured frames through the real pipeline of a node, with ports in memory.
//!
//! Tables are compiled from manifests as in `heddle simulate` ([`crate::simulate::node_tables`]), one worker processes
//! one frame after the other, and the captures supply the time. The result is deterministic: the same input gives the
//! same output, byte by byte.
//!
//! - [`input`]: the captures, merged by time.
//! - [`node`]: the worker, its ports and the captures of frames that leave.
//! - [`report`]: the counters.

mod error;
pub mod input;
pub mod node;
pub mod report;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use heddle_config::Config;

use crate::cluster_source::ClusterSource;
use crate::simulate::{ClusterTables, Rules};
pub use error::ReplayError;
pub use input::Input;
use input::Inputs;
use node::Node;
pub use report::Report;

/// The simulated time after the last frame: held fragments expire within it.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// A request for a replay: captures to run through the pipeline of one node.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// The place of the cluster's objects.
    pub cluster: ClusterSource,
    /// The name of the node.
    pub node: String,
    /// The captures and the ports at which their frames come in.
    pub inputs: Vec<Input>,
    /// The folder for the captures of frames that leave.
    pub out: PathBuf,
    /// The agent's configuration file.
    pub config: Option<PathBuf>,
}

/// Runs the captures and returns the counters. Calls `warn` with a message for each refused object.
///
/// # Errors
/// A file cannot be read or written, or the pipeline cannot be set up.
pub fn run(request: &ReplayRequest, mut warn: impl FnMut(&str)) -> Result<Report, ReplayError> {
    // The configuration, and the tables of the node as its agent would publish them.
    let (config, rules) = match &request.config {
        Some(path) => {
            let config = Config::read(path)?;
            let rules = Rules::from(&config);
            (config, rules)
        }
        None => (Config::default(), Rules::default()),
    };
    let mut tables = ClusterTables::with_rules(rules.clone());
    for event in request.cluster.read()? {
        tables.apply_event(event);
    }
    for rejection in tables.cluster().rejections() {
        warn(&format!("refused: {rejection}"));
    }
    // The captures, and a node with a port for each pod.
    let mut inputs = Inputs::open(&request.inputs)?;
    fs::create_dir_all(&request.out).map_err(ReplayError::file(&request.out))?;
    let shape = node::Shape {
        cluster: tables.cluster(),
        name: &request.node,
        rules: &rules,
        config: &config,
        out: &request.out,
    };
    let mut node = Node::new(&shape, &inputs)?;
    let ports = inputs
        .ports()
        .map(|port| node.find(port))
        .collect::<Result<Vec<_>, _>>()?;
    // Frames of all captures in the order of their times.
    while let Some((input, captured)) = inputs.take()? {
        if let Some(&port) = ports.get(input) {
            node.receive(port, &captured)?;
        }
    }
    node.wait(AFTERWARDS)?;
    let report = node.report();
    node.finish()?;
    Ok(report)
}
