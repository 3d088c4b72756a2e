//! The error answers of the two sockets.
//!
//! [`CniError`] is the CNI socket's, with the codes of the CNI specification; the plugin prints it as it is. [`QueryError`]
//! is the operator's socket's.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ClientError;

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
    /// A necessary environment variable is missing or wrong; the message has its name.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed, the network configuration on standard input for example.
    pub const IO: Self = Self(5);
    /// Content could not be decoded.
    pub const DECODE: Self = Self(6);
    /// The network configuration is not valid.
    pub const INVALID_CONFIG: Self = Self(7);
    /// A transient state: the runtime should try again.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: the plugin cannot serve ADD now.
    pub const UNAVAILABLE: Self = Self(50);
    /// The kernel refused something about interfaces, addresses, routes or sysctls.
    pub const KERNEL: Self = Self(100);
    /// The agent refused or failed.
    pub const AGENT: Self = Self(101);
    /// No address, port or attachment number is left on this node.
    pub const EXHAUSTED: Self = Self(102);
    /// CHECK found something else than ADD left.
    pub const CHECK_FAILED: Self = Self(103);

    /// The HTTP status that carries this code.
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

/// What went wrong: a code for programs, a message with the value and what to do, and perhaps more for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details} (code {})", if .details.is_empty() { "" } else { ": " }, .code.0)]
pub struct CniError {
    /// The code.
    pub code: ErrorCode,
    /// One line: what was wrong, with the value, and what to do.
    pub msg: String,
    /// What the system said, or where to look; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same error with details.
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
    /// A kind that a newer agent has.
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

/// An error of the operator's socket.
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

/// An error that a socket can answer with.
pub trait SocketError: Serialize + DeserializeOwned + Send {
    /// Makes the error for a request that cannot be decoded.
    fn undecodable(message: String) -> Self;
    /// Makes the error for a path that the socket does not serve.
    fn no_such_path() -> Self;
    /// Makes the error for a method that a path does not have.
    fn no_such_method() -> Self;
    /// Makes the error of an agent that is stopping.
    fn stopping() -> Self;
    /// Returns the HTTP status that carries the error.
    fn http_status(&self) -> u16;
    /// Makes the client's error from an answer.
    fn into_client_error(self, what: String) -> ClientError;
}

/// The advice for a path that does not exist.
const SAME_VERSION: &str = "no such path; are client and agent of the same version?";
const NO_SUCH_METHOD: &str = "this path has no such method";
const STOPPING: &str = "the agent is stopping; it will be there again";

impl SocketError for CniError {
    fn undecodable(message: String) -> Self {
        Self::new(ErrorCode::DECODE, message)
    }

    fn no_such_path() -> Self {
        Self::new(ErrorCode::AGENT, SAME_VERSION)
    }

    fn no_such_method() -> Self {
        Self::new(ErrorCode::AGENT, NO_SUCH_METHOD)
    }

    fn stopping() -> Self {
        Self::new(ErrorCode::TRY_AGAIN_LATER, STOPPING)
    }

    fn http_status(&self) -> u16 {
        self.code.http_status()
    }

    fn into_client_error(self, what: String) -> ClientError {
        ClientError::Refused { what, error: self }
    }
}

impl SocketError for QueryError {
    fn undecodable(message: String) -> Self {
        Self::invalid(message)
    }

    fn no_such_path() -> Self {
        Self::not_found(SAME_VERSION)
    }

    fn no_such_method() -> Self {
        Self::new(QueryErrorKind::NotAllowed, NO_SUCH_METHOD)
    }

    fn stopping() -> Self {
        Self::new(QueryErrorKind::Unavailable, STOPPING)
    }

    fn http_status(&self) -> u16 {
        self.kind.http_status()
    }

    fn into_client_error(self, what: String) -> ClientError {
        ClientError::QueryRefused { what, error: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_json() {
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
