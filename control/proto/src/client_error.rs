//! The error of the client's calls.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::{CniError, QueryError};

/// A call that has no answer, or that was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent listens: the socket does not exist or refuses connections.
    #[error("no heddle agent answers at {}: is `heddle run` running with this run directory? ({source})", socket.display())]
    Absent {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The socket cannot be used for another reason: missing permission, or a file that is not a socket.
    #[error("the agent's socket {} cannot be used: {source}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The agent refused a request of the CNI socket.
    #[error("the agent refused {what}: {error}")]
    Refused {
        /// Method and path.
        what: String,
        /// The agent's error.
        error: CniError,
    },
    /// The agent refused a query.
    #[error("the agent refused {what}: {error}")]
    QueryRefused {
        /// Method and path.
        what: String,
        /// The agent's error.
        error: QueryError,
    },
    /// The answer did not arrive in time.
    #[error("the agent at {} did not answer {what} within {} s", socket.display(), after.as_secs_f32())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// Method and path.
        what: String,
        /// The time limit.
        after: Duration,
    },
    /// The connection broke before the answer arrived. The request may have taken effect.
    #[error("the connection to the agent broke during {what}: {detail}")]
    Broken {
        /// Method and path.
        what: String,
        /// The error of hyper.
        detail: String,
    },
    /// The answer is not of this protocol.
    #[error("the answer to {what} could not be understood (HTTP status {status}): {detail}")]
    Answer {
        /// Method and path.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The problem.
        detail: String,
    },
    /// The request is too large or cannot be written as JSON.
    #[error("the request {what} cannot be sent: {detail}")]
    Request {
        /// Method and path.
        what: String,
        /// The problem.
        detail: String,
    },
}

impl ClientError {
    /// Returns the CNI socket's error, if the agent refused.
    #[must_use]
    pub fn refused(&self) -> Option<&CniError> {
        match self {
            Self::Refused { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Returns true if no agent answered, so that another try may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Timeout { .. } | Self::Broken { .. })
    }
}
