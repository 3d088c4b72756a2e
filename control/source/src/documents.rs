//! The documents of a file, and the fault of a file that cannot be read.

use serde_json::Value;

/// A file that cannot be read as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// The line of the fault, from 1, if it is known.
    pub line: Option<u32>,
    /// The fault.
    pub message: String,
}

/// The documents of a file, with the lines where they begin.
pub(crate) type Documents = Vec<(Option<u32>, Value)>;
