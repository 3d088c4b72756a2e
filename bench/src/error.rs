//! What can go wrong in a measurement.

use heddle_io::XdpError;
use heddle_lab::LabError;

/// A measurement that cannot be made, or whose result would mean nothing.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The namespaces cannot be made, or a command in them failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// AF_XDP refused.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The pipeline did something else with a packet than the measurement is about.
    #[error("{what}: expected {expected}, got {got}; the figure would mean nothing")]
    Unexpected {
        /// Which packets.
        what: String,
        /// What should have become of them.
        expected: String,
        /// What did.
        got: String,
    },
    /// A value that cannot be measured with.
    #[error("{what} = {value} cannot be: {rule}")]
    BadValue {
        /// Its name.
        what: &'static str,
        /// The value.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// A thread of the measurement died.
    #[error("the {0} thread died; its message stands above")]
    Thread(&'static str),
}

impl BenchError {
    /// Names the step of a failed system call.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let named = LabError::io(what);
        move |source| Self::Lab(named(source))
    }

    /// The same for errors of nix.
    pub fn nix(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let named = LabError::nix(what);
        move |source| Self::Lab(named(source))
    }
}
