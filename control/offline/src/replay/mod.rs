//! `heddle replay`: runs captured frames through the real pipeline of a node, with ports in memory.
//!
//! Tables are compiled from manifests as `heddle simulate` does ([`crate::simulate::node_tables`]), one worker runs frame by frame,
//! and time comes from the captures. The result is deterministic: the same input gives the same bytes.
//!
//! - [`input`]: the captures, merged by time.
//! - [`node`]: the worker, its ports and the captures of frames that leave.
//! - [`report`]: the counters.

pub mod input;
pub mod node;
pub mod report;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use heddle_config::{Config, ConfigError};
use heddle_port::CaptureError;
use heddle_source::folder;

use crate::simulate::{ClusterTables, Rules};
pub use input::Input;
use input::Inputs;
use node::Node;
pub use report::Report;

/// Simulated time after the last frame, so that held packets time out.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// A replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The agent's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The manifests cannot be read.
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    /// There is no such node.
    #[error("there is no Node {node} in the manifests; there are: {known}")]
    NoNode {
        /// The one that was asked for.
        node: String,
        /// Those that there are.
        known: String,
    },
    /// There is no such port.
    #[error("--in {port}: node {node} has no such port; it has: {known}")]
    NoPort {
        /// The one that was asked for.
        port: String,
        /// Of this node.
        node: String,
        /// Those that there are.
        known: String,
    },
    /// Frames of the uplink cannot be taken in.
    #[error("--in uplink: frames from outside reach pods by the kernel and the host port so far: give them to host")]
    Uplink,
    /// A file cannot be opened or made.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A capture cannot be used.
    #[error("{}: {source}", path.display())]
    Capture {
        /// Which.
        path: PathBuf,
        /// Why.
        source: CaptureError,
    },
    /// A frame is longer than any port takes.
    #[error("{}: frame {number} has {len} bytes, a port takes at most {max}", path.display())]
    TooLong {
        /// The capture.
        path: PathBuf,
        /// Which frame, counted from 1.
        number: u64,
        /// Its length.
        len: usize,
        /// The greatest length.
        max: usize,
    },
    /// The pipeline cannot be set up.
    #[error("setting up the pipeline: {0}")]
    Setup(String),
}

impl ReplayError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Captures to run through the pipeline of one node.
#[derive(Clone, Debug)]
pub struct Request {
    /// The folder of manifests.
    pub manifests: PathBuf,
    /// The name of the node.
    pub node: String,
    /// The captures and the ports at which their frames come in.
    pub inputs: Vec<Input>,
    /// The folder for the captures of frames that leave.
    pub out: PathBuf,
    /// The agent's configuration file.
    pub config: Option<PathBuf>,
}

/// Runs the captures and returns the counters. `warn` gets each refused object.
///
/// # Errors
/// Something cannot be read, set up or written.
pub fn run(request: &Request, mut warn: impl FnMut(&str)) -> Result<Report, ReplayError> {
    let (config, rules) = match &request.config {
        Some(path) => {
            let config = Config::read(path)?;
            let rules = Rules::from(&config);
            (config, rules)
        }
        None => (Config::default(), Rules::default()),
    };
    let mut tables = ClusterTables::by(rules.clone());
    for event in folder::read(&request.manifests)? {
        tables.take(event);
    }
    for rejection in tables.cluster().rejections() {
        warn(&format!("refused: {rejection}"));
    }
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
