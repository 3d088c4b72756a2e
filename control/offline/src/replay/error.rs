//! The error of a replay.

use std::io;
use std::path::PathBuf;

use heddle_config::ConfigError;
use heddle_port::CaptureError;

use crate::cluster_source::ReadError;

/// A replay that failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The agent's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster cannot be read.
    #[error(transparent)]
    Cluster(#[from] ReadError),
    /// There is no such node.
    #[error("there is no Node {node} in the cluster; there are: {known}")]
    NoNode {
        /// The name on the command line.
        node: String,
        /// The nodes of the cluster.
        known: String,
    },
    /// There is no such port.
    #[error("--in {port}: node {node} has no such port; it has: {known}")]
    NoPort {
        /// The name on the command line.
        port: String,
        /// The node.
        node: String,
        /// The node's ports.
        known: String,
    },
    /// A file cannot be opened, made or removed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A capture cannot be used.
    #[error("{}: {source}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: CaptureError,
    },
    /// A frame is longer than the longest that a port receives.
    #[error("{}: frame {number} has {len} bytes, the longest that a port receives has {max}", path.display())]
    TooLong {
        /// The capture.
        path: PathBuf,
        /// The frame's number, counted from 1.
        number: u64,
        /// Its length.
        len: usize,
        /// The maximum length.
        max: usize,
    },
    /// The pipeline cannot be set up.
    #[error("cannot set up the pipeline: {0}")]
    Setup(String),
}

impl ReplayError {
    /// Makes the error for a file that cannot be opened or made.
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
