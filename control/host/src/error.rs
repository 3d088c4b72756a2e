//! The error of the host port.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use heddle_linux::LinuxError;

/// A step at the host port failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused a step.
    #[error(transparent)]
    Linux(#[from] LinuxError),
    /// Something that does not belong to heddle is in the way.
    #[error("{0}")]
    InTheWay(String),
    /// `nft` cannot be started.
    #[error("nft: {0}")]
    NftMissing(String),
    /// `nft` refused.
    #[error("nft: {0}")]
    Nft(String),
    /// `nft` did not end and was killed.
    #[error("nft: did not end within {} s and was killed", .0.as_secs())]
    NftSlow(Duration),
    /// The interface of a port has no XDP program, or another one than heddle's.
    #[error("interface {0} has lost heddle's XDP program, so its port receives nothing")]
    NoProgram(String),
    /// The record of the reserved ports cannot be read or written.
    #[error("cannot read or write {}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The host task's thread cannot be started.
    #[error("cannot start the host task: {0}")]
    Thread(io::Error),
    /// The host task has ended.
    #[error("the host task has ended: the agent is stopping")]
    Ended,
}

impl HostError {
    /// Makes the error of a thread that cannot be started.
    pub(crate) fn thread(source: io::Error) -> Self {
        Self::Thread(source)
    }
}
