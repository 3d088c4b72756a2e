//! The error of this crate: a configuration that the agent cannot use.

use std::path::PathBuf;

/// A configuration that the agent cannot use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a valid configuration.
    #[error("the configuration {} is not valid: {message} (configs/heddle.yaml lists every key)", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The place and the problem.
        message: String,
    },
    /// A key has an impossible value.
    #[error("{key}: {value} {problem}")]
    Value {
        /// The key; its flag is the same in kebab case.
        key: &'static str,
        /// The value.
        value: String,
        /// The problem and the allowed values.
        problem: String,
    },
    /// A key without default is missing.
    #[error("{key} is not set: {what}")]
    Missing {
        /// The key.
        key: &'static str,
        /// How to set it.
        what: &'static str,
    },
}

impl ConfigError {
    /// Makes the error for an impossible value.
    pub(crate) fn value(key: &'static str, value: impl std::fmt::Display, problem: impl Into<String>) -> Self {
        Self::Value {
            key,
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}
