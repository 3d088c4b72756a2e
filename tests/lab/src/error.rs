//! What can go wrong in the laboratory.

use std::io;

/// A step of the laboratory failed: it names the step and what the system said.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// An operation on files, mounts, namespaces or sockets failed.
    #[error("{what}: {source}")]
    Io {
        /// The step, with the object's name.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A command ended with another status than 0.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard error (and, where that is empty, to standard output).
        stderr: String,
    },
    /// Something did not happen within its bound.
    #[error("{what} did not happen within {seconds} s{detail}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// The bound.
        seconds: u64,
        /// What is known about why, ready to append.
        detail: String,
    },
    /// A reply could not be understood.
    #[error("{what}: {detail}")]
    Reply {
        /// Whose reply.
        what: String,
        /// What was wrong with it.
        detail: String,
    },
}

impl LabError {
    /// Names the step of a failed system call.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The same for errors of nix.
    pub fn nix(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |e| Self::Io { what, source: e.into() }
    }
}
