//! The error of the demo.

use heddle_lab::LabError;

/// A demo that failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step of the laboratory failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; everything that the demo created is removed")]
    Interrupted,
    /// A probe had another result than expected.
    #[error("a result differs from the expected one: see what is marked `NO`")]
    Different,
    /// The signal handler cannot be installed.
    #[error("cannot install a signal handler: {0}")]
    Signals(std::io::Error),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}
