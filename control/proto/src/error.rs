//! The error answers of the two sockets.
//!
//! [`CniError`] is the error of the CNI socket, with the codes of the CNI specification; the plugin prints it unchanged.
//! [`QueryError`] is the error of the command line's socket.

use serde::{Deserialize, Serialize};

/// An error code of the CNI specification (1.1, section 5, "Error"); 100 and above are heddle's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// The configuration's `cniVersion` is not supported.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field of the configuration is not supported; the message has key and value.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or does not exist: the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A required environment variable is missing or wrong; the message has its name.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed, for example reading the network configuration from standard input.
    pub const IO: Self = Self(5);
    /// The input could not be decoded.
    pub const DECODE: Self = Self(6);
    /// The network configuration is not valid.
    pub const INVALID_CONFIG: Self = Self(7);
    /// A transient state: the runtime should try again.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: the plugin cannot serve ADD now.
    pub const UNAVAILABLE: Self = Self(50);
    /// The kernel refused a change of interfaces, addresses, routes or sysctls.
    pub const KERNEL: Self = Self(100);
    /// The agent refused or failed.
    pub const AGENT: Self = Self(101);
    /// No address, port or attachment number is left on this node.
    pub const EXHAUSTED: Self = Self(102);
    /// CHECK found a state that differs from the one that ADD left.
    pub const CHECK_FAILED: Self = Self(103);

    /// Returns the HTTP status that carries this code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::UNKNOWN_CONTAINER => 404,
            Self::TRY_AGAIN_LATER | Self::UNAVAILABLE => 503,
            Self::EXHAUSTED => 507,
            Self::KERNEL | Self::AGENT | Self::IO => 500,
            Self::CHECK_FAILED => 409,
            _ => 400,
        }
    }
}

/// An error of the CNI socket: a code for programs, a message with the value and what to do, and optional details.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details} (code {})", if .details.is_empty() { "" } else { ": " }, .code.0)]
pub struct CniError {
    /// The code.
    pub code: ErrorCode,
    /// One line: what was wrong, with the value, and what to do.
    pub msg: String,
    /// The system's error, or where to look; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// Makes an error without details.
    #[must_use]
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// Returns the error with these details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}

/// The kind of a [`QueryError`], for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryErrorKind {
    /// The query cannot be understood, or a filter has a value that does not exist.
    Invalid,
    /// The query names an object, or a path, that does not exist.
    NotFound,
    /// The path has no such method.
    NotAllowed,
    /// The agent cannot answer now.
    Unavailable,
    /// A kind that only newer agents have.
    #[serde(other)]
    Other,
}

impl QueryErrorKind {
    /// Returns the HTTP status that carries this kind.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::NotAllowed => 405,
            Self::Unavailable => 503,
            Self::Other => 500,
        }
    }
}

/// An error of the command line's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    /// The kind.
    pub kind: QueryErrorKind,
    /// One line: what was wrong, with the value, and what to do.
    pub message: String,
}

impl QueryError {
    /// Makes an error.
    #[must_use]
    pub fn new(kind: QueryErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Makes the error for a query that cannot be understood.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(QueryErrorKind::Invalid, message)
    }

    /// Makes the error for an object that does not exist.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(QueryErrorKind::NotFound, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shown_with_code_and_survive_json() {
        let e = CniError::new(ErrorCode::TRY_AGAIN_LATER, "pod a/b is not known yet");
        assert_eq!(e.to_string(), "pod a/b is not known yet (code 11)");
        assert_eq!(
            serde_json::to_string(&e).unwrap(),
            r#"{"code":11,"msg":"pod a/b is not known yet"}"#
        );
        let e = e.with_details("waited 20 s");
        assert_eq!(e.to_string(), "pod a/b is not known yet: waited 20 s (code 11)");
        assert_eq!(
            serde_json::from_str::<CniError>(&serde_json::to_string(&e).unwrap()).unwrap(),
            e
        );
    }
}
