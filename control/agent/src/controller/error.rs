//! The error with which the controller ends.

use std::io;

use heddle_host::HostError;
use heddle_tables::WorkerId;

use crate::workers::WorkersError;

/// A failure that ends the controller before it is asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A worker's thread has died, so nobody forwards the packets of its ports.
    #[error("worker {0} has died: the agent ends, and its pods have no network until it is started again")]
    WorkerDied(WorkerId),
    /// The source of objects has ended.
    #[error("the thread that watches the manifest folder has ended: start the agent again")]
    SourceEnded,
    /// The host port cannot be created.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A worker does not answer or a port cannot be opened.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The journal's thread cannot be started.
    #[error("cannot start the thread of the journal: {0}")]
    Journal(#[from] io::Error),
}
