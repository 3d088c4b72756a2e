//! A client for the agent's sockets: HTTP/1.1 over a unix socket, a connection for each call.
//!
//! Bodies are bounded both ways and every call has a deadline. No connection is used twice: on a unix socket a new one
//! costs next to nothing, and so a restart of the agent between two calls is not noticed. No request is sent twice.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{
    ANSWER_TIMEOUT, Attachment, CniError, ContainerId, Drops, DropsRequest, Flows, FlowsRequest, IfName, MAX_ANSWER,
    MAX_REQUEST, PrepareRequest, Prepared, Readiness, Ready, ReadyRequest, Released, Status, path,
};

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
    /// What the agent said, where it is it that refused.
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

    /// `GET path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<A: DeserializeOwned>(&mut self, path: &str) -> Result<A, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<B: Serialize + Sync, A: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<A, ClientError> {
        let refuse = |detail: String| ClientError::Request {
            what: format!("POST {path}"),
            detail,
        };
        let body = serde_json::to_vec(body).map_err(|e| refuse(e.to_string()))?;
        if body.len() > MAX_REQUEST {
            return Err(refuse(format!(
                "its body has {} bytes, at most {MAX_REQUEST} are allowed",
                body.len()
            )));
        }
        self.call(Method::POST, path, body.into()).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete<A: DeserializeOwned>(&mut self, path: &str) -> Result<A, ClientError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    /// Asks for an attachment (CNI socket).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn prepare(&mut self, request: &PrepareRequest) -> Result<Prepared, ClientError> {
        self.post(path::ATTACHMENTS, request).await
    }

    /// Says that the interface stands, and waits until its port forwards (CNI socket).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ready(
        &mut self,
        container: &ContainerId,
        ifname: &IfName,
        request: &ReadyRequest,
    ) -> Result<Ready, ClientError> {
        self.post(&path::ready(container, ifname), request).await
    }

    /// Asks for the state of an attachment (CNI socket).
    ///
    /// # Errors
    /// See [`ClientError`]; an unknown one is refused with [`crate::ErrorCode::UNKNOWN_CONTAINER`].
    pub async fn attachment(&mut self, container: &ContainerId, ifname: &IfName) -> Result<Attachment, ClientError> {
        self.get(&path::attachment(container, ifname)).await
    }

    /// Gives an attachment back (CNI socket).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn release(&mut self, container: &ContainerId, ifname: &IfName) -> Result<Released, ClientError> {
        self.delete(&path::attachment(container, ifname)).await
    }

    /// Asks whether an ADD can be served (CNI socket).
    ///
    /// # Errors
    /// See [`ClientError`]; if not, it is refused with [`crate::ErrorCode::UNAVAILABLE`].
    pub async fn readiness(&mut self) -> Result<Readiness, ClientError> {
        self.get(path::READINESS).await
    }

    /// The agent's state (API socket).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.get(path::STATUS).await
    }

    /// The packets that were dropped last (API socket).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn drops(&mut self, request: &DropsRequest) -> Result<Drops, ClientError> {
        self.post(path::DROPS, request).await
    }

    /// A page of the connections (API socket).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn flows(&mut self, request: &FlowsRequest) -> Result<Flows, ClientError> {
        self.post(path::FLOWS, request).await
    }

    async fn call<A: DeserializeOwned>(&mut self, method: Method, path: &str, body: Bytes) -> Result<A, ClientError> {
        let what = format!("{method} {path}");
        let (socket, after) = (self.socket.clone(), self.timeout);
        match tokio::time::timeout(after, self.exchange(&what, method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { socket, what, after }),
        }
    }

    async fn exchange<A: DeserializeOwned>(
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
        decode(what, status, &body)
    }
}

fn decode<A: DeserializeOwned>(what: &str, status: StatusCode, body: &[u8]) -> Result<A, ClientError> {
    let refuse = |detail: String| ClientError::Answer {
        what: what.to_owned(),
        status: status.as_u16(),
        detail,
    };
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|e| refuse(e.to_string()));
    }
    match serde_json::from_slice::<CniError>(body) {
        Ok(error) => Err(ClientError::Refused {
            what: what.to_owned(),
            error,
        }),
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
