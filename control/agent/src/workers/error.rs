//! The error of the workers and their ports.

use std::io;

use heddle_engine::WorkerGone;
use heddle_io::XdpError;
use heddle_tables::WorkerId;

/// A failure to start the workers, or to open or close a port.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// AF_XDP refuses the memory or a socket.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A worker has ended.
    #[error(transparent)]
    WorkerGone(#[from] WorkerGone),
    /// A worker does not answer within the time limit.
    #[error("worker {0} does not answer: start the agent again")]
    WorkerSilent(WorkerId),
    /// A worker refused a port or does not have it.
    #[error("{0}")]
    NotAccepted(String),
    /// Every port number for pods is in use.
    #[error("all {max} ports for pods are in use: raise key maxPods")]
    NoPortNumber {
        /// The maximum number of pods (`maxPods`).
        max: u16,
    },
    /// The uplink has more queues than heddle opens.
    #[error(
        "the uplink {ifname} has {queues} receive queues, and heddle opens at most {max} with this number of workers: \
         ethtool -L {ifname} combined {max}, or give heddle more cores"
    )]
    TooManyQueues {
        /// The device.
        ifname: String,
        /// Its receive queues.
        queues: u32,
        /// The maximum.
        max: u32,
    },
    /// A thread or an eventfd cannot be created.
    #[error("cannot start the workers: {0}")]
    Threads(#[from] io::Error),
}

impl WorkersError {
    /// Returns `true` if the worker itself has failed. Then it may still have the port, whose number must not be used again.
    #[must_use]
    pub const fn is_of_worker(&self) -> bool {
        matches!(self, Self::WorkerSilent(_) | Self::WorkerGone(_))
    }
}
