//! A client for the agent's sockets: HTTP/1.1 over a unix socket, a connection for each call.
//!
//! Bodies are bounded both ways and every call has a deadline. No connection is used twice: on a unix socket a new one
//! costs next to nothing, and so a restart of the agent between two calls is not noticed. No request is sent twice.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
pub use hyper::Method;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{
    ANSWER_TIMEOUT, Attachment, CniError, ContainerId, Drops, DropsRequest, Flows, FlowsRequest, IfName, MAX_ANSWER,
    MAX_REQUEST, PrepareRequest, Prepared, QueryError, Readiness, Ready, ReadyRequest, Released, SocketError, Status,
    api_routes, cni_routes, path,
};

/// Makes the client's methods from a list of routes and the socket's error.
macro_rules! methods {
    ($error:ty; $($variant:ident $name:ident: $method:ident $path:literal
        [$($param:ident: $param_type:ident),*] [$($body:ident)?] -> $answer:ident, $doc:literal;)*) => {$(
        #[doc = $doc]
        ///
        /// # Errors
        /// See [`ClientError`].
        pub async fn $name(
            &mut self,
            $($param: &$param_type,)*
            $(request: &$body,)?
        ) -> Result<$answer, ClientError> {
            let path = path::fill($path, &[$((stringify!($param), $param.as_str())),*]);
            let body = None$(.or(Some(encode::<$body>(&path, request)?)))?;
            self.send::<$answer, $error>(Method::$method, &path, body).await
        }
    )*};
}

macro_rules! cni_methods {
    ($($routes:tt)*) => { methods! { CniError; $($routes)* } };
}

macro_rules! api_methods {
    ($($routes:tt)*) => { methods! { QueryError; $($routes)* } };
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the socket is missing or refuses.
    #[error("no heddle agent answers at {}: is `heddle run` running, with this run directory? ({source})", socket.display())]
    Absent {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket cannot be used for another reason (permission, no socket).
    #[error("the agent's socket {} cannot be used: {source}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent answered with an error.
    #[error("the agent refused {what}: {error}")]
    Refused {
        /// Method and path.
        what: String,
        /// What it said.
        error: CniError,
    },
    /// The agent refused a query.
    #[error("the agent refused {what}: {error}")]
    QueryRefused {
        /// Method and path.
        what: String,
        /// The agent's error.
        error: QueryError,
    },
    /// No answer in time.
    #[error("the agent at {} did not answer {what} within {} s", socket.display(), after.as_secs_f32())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// Method and path.
        what: String,
        /// The bound.
        after: Duration,
    },
    /// The connection broke while the answer was awaited: the request may have taken effect.
    #[error("the connection to the agent broke during {what}: {detail}")]
    Broken {
        /// Method and path.
        what: String,
        /// What hyper said.
        detail: String,
    },
    /// The answer is none of this protocol.
    #[error("the answer to {what} could not be understood (HTTP status {status}): {detail}")]
    Answer {
        /// Method and path.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What was wrong.
        detail: String,
    },
    /// The request is too large or cannot be written as JSON.
    #[error("the request {what} cannot be sent: {detail}")]
    Request {
        /// Method and path.
        what: String,
        /// What is wrong.
        detail: String,
    },
}

impl ClientError {
    /// Returns the CNI socket's error, if the agent refused.
    #[must_use]
    pub fn refused(&self) -> Option<&CniError> {
        match self {
            Self::Refused { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether no agent is there, or none that answers: another try may find one.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Timeout { .. } | Self::Broken { .. })
    }
}

/// One of the agent's sockets. It lives on a tokio runtime.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// The connection of the first call, made by [`Client::connect`].
    dialled: Option<SendRequest<Full<Bytes>>>,
    timeout: Duration,
    max_answer: usize,
}

impl Client {
    /// Connects to a socket of the agent, `RUN_DIR/cni.sock` or `RUN_DIR/api.sock`.
    ///
    /// # Errors
    /// [`ClientError::Absent`] when nobody listens, [`ClientError::Connect`] when the socket cannot be used,
    /// [`ClientError::Timeout`] when the agent does not accept.
    pub async fn connect(socket: impl Into<PathBuf>) -> Result<Self, ClientError> {
        Self::connect_within(socket, ANSWER_TIMEOUT).await
    }

    /// As [`connect`](Self::connect), with another bound for connecting and for each call.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_within(socket: impl Into<PathBuf>, timeout: Duration) -> Result<Self, ClientError> {
        let socket = socket.into();
        let dialled = dial_within(&socket, timeout, "connecting").await?;
        Ok(Self {
            socket,
            dialled: Some(dialled),
            timeout,
            max_answer: MAX_ANSWER,
        })
    }

    /// The same client with another bound for the size of answers.
    #[must_use]
    pub const fn with_max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }

    /// The socket that it talks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    cni_routes!(cni_methods);
    api_routes!(api_methods);

    /// Sends a request without a type of its own; errors are decoded as `E`. For tools and tests: a route has a method.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send<A: DeserializeOwned, E: SocketError>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<A, ClientError> {
        let what = format!("{method} {path}");
        let body = body.unwrap_or_default();
        if body.len() > MAX_REQUEST {
            let detail = format!("its body has {} bytes, at most {MAX_REQUEST} are allowed", body.len());
            return Err(ClientError::Request { what, detail });
        }
        let (socket, after) = (self.socket.clone(), self.timeout);
        match tokio::time::timeout(after, self.exchange::<A, E>(&what, method, path, body.into())).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { socket, what, after }),
        }
    }

    async fn exchange<A: DeserializeOwned, E: SocketError>(
        &mut self,
        what: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, ClientError> {
        let mut sender = match self.dialled.take() {
            Some(sender) => sender,
            None => dial(&self.socket).await?,
        };
        let mut request = Request::builder().method(method).uri(path).header("host", "heddle");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|e| ClientError::Request {
            what: what.to_owned(),
            detail: e.to_string(),
        })?;
        let broken = |detail: String| ClientError::Broken {
            what: what.to_owned(),
            detail,
        };
        let answer = sender.send_request(request).await.map_err(|e| broken(e.to_string()))?;

        let status = answer.status();
        let refuse = |detail: String| ClientError::Answer {
            what: what.to_owned(),
            status: status.as_u16(),
            detail,
        };
        let body = match Limited::new(answer.into_body(), self.max_answer).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) if e.is::<LengthLimitError>() => {
                return Err(refuse(format!(
                    "it is longer than the {} bytes that are read",
                    self.max_answer
                )));
            }
            Err(e) => return Err(broken(e.to_string())),
        };
        decode::<A, E>(what, status, &body)
    }
}

fn encode<B: Serialize>(path: &str, body: &B) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|e| ClientError::Request {
        what: format!("POST {path}"),
        detail: e.to_string(),
    })
}

fn decode<A: DeserializeOwned, E: SocketError>(what: &str, status: StatusCode, body: &[u8]) -> Result<A, ClientError> {
    let refuse = |detail: String| ClientError::Answer {
        what: what.to_owned(),
        status: status.as_u16(),
        detail,
    };
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|e| refuse(e.to_string()));
    }
    match serde_json::from_slice::<E>(body) {
        Ok(error) => Err(error.into_client_error(what.to_owned())),
        Err(_) => Err(refuse(format!(
            "{:?}",
            String::from_utf8_lossy(&body[..body.len().min(200)])
        ))),
    }
}

async fn dial_within(socket: &Path, after: Duration, what: &str) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    match tokio::time::timeout(after, dial(socket)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(ClientError::Timeout {
            socket: socket.to_owned(),
            what: what.to_owned(),
            after,
        }),
    }
}

async fn dial(socket: &Path) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Absent { socket, source },
            _ => ClientError::Connect { socket, source },
        }
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| ClientError::Broken {
            what: "connecting".to_owned(),
            detail: e.to_string(),
        })?;
    // Its error, if any, arrives at the waiting call as well.
    tokio::spawn(connection);
    sender.ready().await.map_err(|e| ClientError::Broken {
        what: "connecting".to_owned(),
        detail: e.to_string(),
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests;
