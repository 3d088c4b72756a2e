//! The error of the laboratory.

use std::io;

/// A failed step of the laboratory, with the name of the step and the system's message.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// An operation on files, mounts, namespaces or sockets failed.
    #[error("{what}: {source}")]
    Io {
        /// The step, with the object's name.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// A command ended with a status other than 0.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// Its standard error, or its standard output if standard error is empty.
        stderr: String,
    },
    /// An event did not happen within its bound.
    #[error("{what} did not happen within {seconds} s{detail}")]
    Timeout {
        /// The event.
        what: String,
        /// The bound.
        seconds: u64,
        /// Further facts, ready to append.
        detail: String,
    },
    /// A reply could not be understood.
    #[error("{what}: {detail}")]
    Reply {
        /// The source of the reply.
        what: String,
        /// The fault in it.
        detail: String,
    },
}

impl LabError {
    /// Returns a converter from an I/O error that names the failed step.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Returns a converter from an error of the crate nix that names the failed step.
    pub fn nix(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |e| Self::Io { what, source: e.into() }
    }
}
