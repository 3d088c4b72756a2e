//! The error of a measurement.

use heddle_io::XdpError;
use heddle_lab::LabError;

/// A measurement that cannot be made, or that would have no meaning.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A namespace cannot be made, or a command in one failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// An AF_XDP operation failed.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The pipeline did not handle a packet as the measurement assumes.
    #[error("{what}: expected {expected}, got {got}; the figure would mean nothing")]
    Unexpected {
        /// The packets.
        what: String,
        /// The expected outcome.
        expected: String,
        /// The outcome.
        got: String,
    },
    /// A parameter is out of its range.
    #[error("{what} = {value} cannot be: {rule}")]
    BadValue {
        /// The parameter's name.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The permitted values.
        rule: &'static str,
    },
    /// A thread of the measurement panicked.
    #[error("the {0} thread died; its message stands above")]
    Thread(&'static str),
}

impl BenchError {
    /// Returns a converter from an I/O error that names the failed step.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let named = LabError::io(what);
        move |source| Self::Lab(named(source))
    }

    /// Returns a converter from an error of the crate nix that names the failed step.
    pub fn nix(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let named = LabError::nix(what);
        move |source| Self::Lab(named(source))
    }
}
