//! `heddle replay`: captured frames through the real pipeline of a node, with ports in memory.
//!
//! Tables are compiled from manifests as `heddle simulate` does ([`crate::simulate::plane`]), one worker runs frame by frame,
//! and time is that of the captures. Nothing depends on chance: the same input gives the same bytes.
//!
//! - [`input`]: the captures, merged by time.
//! - [`node`]: the worker, its ports and what leaves them.
//! - [`report`]: what was counted.

pub mod input;
pub mod node;
pub mod report;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use heddle_port::CaptureError;
use heddle_source::folder;

use crate::cli::{OutputFormat, ReplayArgs};
use crate::config::{Config, ConfigError};
use crate::simulate::{Rules, World};
pub use input::Input;
use input::Inputs;
use node::Node;

/// What passes after the last frame, so that whatever waits runs out of time.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// Why `heddle replay` does not run.
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
    /// The answer cannot be written down.
    #[error("writing the answer: {0}")]
    Write(#[from] serde_json::Error),
}

impl ReplayError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Runs the captures and returns what to print on standard output. Refused objects are told to `warn`.
///
/// # Errors
/// Something cannot be read, set up or written.
pub fn run(args: &ReplayArgs, mut warn: impl FnMut(&str)) -> Result<String, ReplayError> {
    let (config, rules) = match &args.config {
        Some(path) => {
            let config = Config::read(path)?;
            let rules = Rules::from(&config);
            (config, rules)
        }
        None => (Config::default(), Rules::default()),
    };
    let mut world = World::by(rules.clone());
    for event in folder::read(&args.manifests)? {
        world.take(event);
    }
    for rejection in world.cluster().rejections() {
        warn(&format!("refused: {rejection}"));
    }
    let mut inputs = Inputs::open(&args.inputs)?;
    fs::create_dir_all(&args.out).map_err(ReplayError::file(&args.out))?;
    let shape = node::Shape {
        cluster: world.cluster(),
        name: &args.node,
        rules: &rules,
        config: &config,
        out: &args.out,
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
    Ok(match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
        OutputFormat::Text => report.to_string(),
    })
}
