//! A client for the agent's sockets: HTTP/1.1 over a unix socket, a connection for each call.
//!
//! Bodies are bounded in both directions and every call has a deadline. Each call has a connection of its own: on a unix socket
//! a new one costs next to nothing, and a restart of the agent between two calls does no harm. No request is sent twice.

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
    ANSWER_TIMEOUT, Attachment, ClientError, CniError, ContainerId, Drops, DropsRequest, Flows, FlowsRequest, IfName,
    MAX_ANSWER, MAX_REQUEST, PrepareRequest, Prepared, QueryError, Readiness, Ready, ReadyRequest, Released,
    SocketError, Status, api_routes, cni_routes, path,
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

/// A client of one of the agent's sockets. It needs a tokio runtime.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// The connection for the first call, made by [`Client::connect`].
    connected: Option<SendRequest<Full<Bytes>>>,
    timeout: Duration,
    max_answer: usize,
}

impl Client {
    /// Connects to a socket of the agent, `RUN_DIR/cni.sock` or `RUN_DIR/api.sock`.
    ///
    /// # Errors
    /// [`ClientError::Absent`] when no agent listens, [`ClientError::Connect`] when the socket cannot be used,
    /// [`ClientError::Timeout`] when the agent does not accept.
    pub async fn connect(socket: impl Into<PathBuf>) -> Result<Self, ClientError> {
        Self::connect_within(socket, ANSWER_TIMEOUT).await
    }

    /// Connects as [`connect`](Self::connect) does, with another time limit for connecting and for each call.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_within(socket: impl Into<PathBuf>, timeout: Duration) -> Result<Self, ClientError> {
        let socket = socket.into();
        let connected = open_within(&socket, timeout, "connecting").await?;
        Ok(Self {
            socket,
            connected: Some(connected),
            timeout,
            max_answer: MAX_ANSWER,
        })
    }

    /// Returns the client with another bound for the size of answers.
    #[must_use]
    pub const fn with_max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }

    /// Returns the socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    cni_routes!(cni_methods);
    api_routes!(api_methods);

    /// Sends a request to any path; errors are decoded as `E`. The methods of the routes call it, and so do tests that send
    /// requests no method sends.
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

    /// Sends the request and reads the answer, without a time limit.
    async fn exchange<A: DeserializeOwned, E: SocketError>(
        &mut self,
        what: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, ClientError> {
        let mut sender = match self.connected.take() {
            Some(sender) => sender,
            None => open(&self.socket).await?,
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
                return Err(refuse(format!("it is longer than {} bytes", self.max_answer)));
            }
            Err(e) => return Err(broken(e.to_string())),
        };
        decode::<A, E>(what, status, &body)
    }
}

/// Encodes the body of a request.
fn encode<B: Serialize>(path: &str, body: &B) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|e| ClientError::Request {
        what: format!("POST {path}"),
        detail: e.to_string(),
    })
}

/// Decodes an answer: the body of a success as `A`, the body of a failure as `E`.
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

/// Opens a connection as [`open`] does, within a time limit.
async fn open_within(socket: &Path, after: Duration, what: &str) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    match tokio::time::timeout(after, open(socket)).await {
        Ok(connected) => connected,
        Err(_) => Err(ClientError::Timeout {
            socket: socket.to_owned(),
            what: what.to_owned(),
            after,
        }),
    }
}

/// Opens an HTTP connection.
async fn open(socket: &Path) -> Result<SendRequest<Full<Bytes>>, ClientError> {
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
    // The task drives the connection. Its error, if any, also reaches the waiting call.
    tokio::spawn(connection);
    sender.ready().await.map_err(|e| ClientError::Broken {
        what: "connecting".to_owned(),
        detail: e.to_string(),
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests;
