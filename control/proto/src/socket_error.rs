//! The two error types of the sockets behind one trait, so that client and server have one code path for both.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ClientError, CniError, ErrorCode, QueryError, QueryErrorKind};

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

/// The message for a path that does not exist, most often because client and agent differ in version.
const SAME_VERSION: &str = "no such path; are client and agent of the same version?";
const NO_SUCH_METHOD: &str = "this path does not have this method; are client and agent of the same version?";
const STOPPING: &str = "the agent is stopping; try again when it runs again";

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
