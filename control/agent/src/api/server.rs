//! The HTTP side of the sockets: routes, bounds, decoding, and errors as [`CniError`].

use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use crossbeam::channel::Sender;
use heddle_proto::{
    API_SOCKET, CNI_SOCKET, CniError, ContainerId, ErrorCode, IfName, MAX_REQUEST, ReadyRequest, path, request,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::socket::{SocketFile, listen};
use super::{Reply, Request};

/// A socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the socket {}: {source}", path.display())]
pub struct ApiError {
    /// The socket.
    path: PathBuf,
    /// What the system said.
    source: std::io::Error,
}

/// Both sockets; they close with this.
#[derive(Debug)]
pub struct Server {
    tasks: Vec<JoinHandle<()>>,
    _files: Vec<SocketFile>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

type Control = Sender<Request>;

impl Server {
    /// Listens at both sockets of a run directory, whose lock the caller holds, and passes requests on. To be called on
    /// a tokio runtime.
    ///
    /// # Errors
    /// A socket cannot be bound.
    pub fn start(run_dir: &Path, control: &Control) -> Result<Self, ApiError> {
        let mut server = Self {
            tasks: Vec::new(),
            _files: Vec::new(),
        };
        for (name, routes) in [(CNI_SOCKET, cni_routes()), (API_SOCKET, api_routes())] {
            let path = run_dir.join(name);
            let (listener, file) = listen(&path).map_err(|source| ApiError {
                path: path.clone(),
                source,
            })?;
            server._files.push(file);
            let app = finished(routes, control.clone());
            server.tasks.push(tokio::spawn(async move {
                if let Err(e) = axum::serve(listener, app).await {
                    tracing::error!(socket = %path.display(), error = %e, "the socket is served no more");
                }
            }));
        }
        Ok(server)
    }
}

fn cni_routes() -> Router<Control> {
    Router::new()
        .route(path::ATTACHMENTS, post(prepare))
        .route(path::ATTACHMENT_PATTERN, get(attachment).delete(release))
        .route(path::READY_PATTERN, post(ready))
        .route(path::READINESS, get(readiness))
}

fn api_routes() -> Router<Control> {
    Router::new()
        .route(path::STATUS, get(status))
        .route(path::DROPS, post(drops))
        .route(path::FLOWS, post(flows))
}

fn finished(routes: Router<Control>, control: Control) -> Router {
    routes
        .fallback(async || {
            failure(
                StatusCode::NOT_FOUND,
                &CniError::new(
                    ErrorCode::AGENT,
                    "no such path; are plugin and agent of the same version?",
                ),
            )
        })
        .method_not_allowed_fallback(async || {
            failure(
                StatusCode::METHOD_NOT_ALLOWED,
                &CniError::new(ErrorCode::AGENT, "this path has no such method"),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(control)
}

async fn prepare(State(control): State<Control>, body: Result<axum::body::Bytes, BytesRejection>) -> Response {
    let request = match decoded(body) {
        Ok(request) => request,
        Err(refusal) => return failure(refusal.0, &refusal.1),
    };
    ask(&control, |reply| Request::Prepare { request, reply }).await
}

async fn ready(
    State(control): State<Control>,
    UrlPath(names): UrlPath<(String, String)>,
    body: Result<axum::body::Bytes, BytesRejection>,
) -> Response {
    let (container, ifname) = match named(names) {
        Ok(names) => names,
        Err(refusal) => return failure(refusal.0, &refusal.1),
    };
    let request: ReadyRequest = match decoded(body) {
        Ok(request) => request,
        Err(refusal) => return failure(refusal.0, &refusal.1),
    };
    ask(&control, |reply| Request::Ready {
        container,
        ifname,
        request,
        reply,
    })
    .await
}

async fn attachment(State(control): State<Control>, UrlPath(names): UrlPath<(String, String)>) -> Response {
    match named(names) {
        Ok((container, ifname)) => {
            ask(&control, |reply| Request::Attachment {
                container,
                ifname,
                reply,
            })
            .await
        }
        Err(refusal) => failure(refusal.0, &refusal.1),
    }
}

async fn release(State(control): State<Control>, UrlPath(names): UrlPath<(String, String)>) -> Response {
    match named(names) {
        Ok((container, ifname)) => {
            ask(&control, |reply| Request::Release {
                container,
                ifname,
                reply,
            })
            .await
        }
        Err(refusal) => failure(refusal.0, &refusal.1),
    }
}

async fn readiness(State(control): State<Control>) -> Response {
    ask(&control, |reply| Request::Readiness { reply }).await
}

async fn status(State(control): State<Control>) -> Response {
    ask(&control, |reply| Request::Status { reply }).await
}

async fn flows(State(control): State<Control>, body: Result<axum::body::Bytes, BytesRejection>) -> Response {
    match decoded(body) {
        Ok(request) => ask(&control, |reply| Request::Flows { request, reply }).await,
        Err(refusal) => failure(refusal.0, &refusal.1),
    }
}

async fn drops(State(control): State<Control>, body: Result<axum::body::Bytes, BytesRejection>) -> Response {
    match decoded(body) {
        Ok(request) => ask(&control, |reply| Request::Drops { request, reply }).await,
        Err(refusal) => failure(refusal.0, &refusal.1),
    }
}

/// Asks the control thread and answers with what it says.
async fn ask<T: Serialize>(control: &Control, request: impl FnOnce(Reply<T>) -> Request) -> Response {
    let (reply, answer) = oneshot::channel();
    let stopping = || {
        CniError::new(
            ErrorCode::TRY_AGAIN_LATER,
            "the agent is stopping; it will be there again",
        )
    };
    let said = match control.send(request(reply)) {
        Ok(()) => answer.await.unwrap_or_else(|_| Err(stopping())),
        Err(_) => Err(stopping()),
    };
    match said {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => refused(&error),
    }
}

/// An error answer with a status of its own.
type Refusal = Box<(StatusCode, CniError)>;

fn decoded<T: DeserializeOwned>(body: Result<axum::body::Bytes, BytesRejection>) -> Result<T, Refusal> {
    let body = body.map_err(|e| {
        let message = format!("the request's body was refused: {e} (at most {MAX_REQUEST} bytes are read)");
        Box::new((e.status(), CniError::new(ErrorCode::DECODE, message)))
    })?;
    request::body(&body).map_err(|e| Box::new((StatusCode::BAD_REQUEST, e)))
}

fn named((container, ifname): (String, String)) -> Result<(ContainerId, IfName), Refusal> {
    request::names(container, ifname).map_err(|e| Box::new((StatusCode::BAD_REQUEST, e)))
}

fn refused(error: &CniError) -> Response {
    failure(
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        error,
    )
}

fn failure(status: StatusCode, error: &CniError) -> Response {
    json(status, error)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let (status, body) = match serde_json::to_vec(value) {
        Ok(body) => (status, body),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string().into_bytes()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use heddle_proto::{Client, ClientError, PrepareRequest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn request() -> PrepareRequest {
        serde_json::from_value(serde_json::json!({"container": "c1", "ifname": "eth0", "netns": "/run/netns/x"}))
            .unwrap()
    }

    /// A control thread that refuses everything with what it was asked.
    fn echo(dir: &Path) -> Server {
        let (control, requests) = crossbeam::channel::unbounded();
        std::thread::spawn(move || {
            for request in requests {
                let error = |text: String| CniError::new(ErrorCode::EXHAUSTED, text);
                match request {
                    Request::Prepare { request, reply } => {
                        drop(reply.send(Err(error(format!("prepare {}", request.container)))));
                    }
                    Request::Ready { container, reply, .. } => {
                        drop(reply.send(Err(error(format!("ready {container}")))));
                    }
                    Request::Attachment {
                        container,
                        ifname,
                        reply,
                    } => {
                        drop(reply.send(Err(error(format!("attachment {container} {ifname}")))));
                    }
                    Request::Flows { request, reply } => {
                        drop(reply.send(Err(error(format!("flows from {}", request.from)))));
                    }
                    Request::Drops { request, reply } => {
                        drop(reply.send(Err(error(format!("drops {:?}", request.limit)))));
                    }
                    // Dropping a reply is what a stopping control thread does.
                    Request::Release { .. } | Request::Readiness { .. } | Request::Status { .. } => {}
                }
            }
        });
        Server::start(dir, &control).unwrap()
    }

    async fn client(dir: &Path) -> Client {
        client_of(dir, CNI_SOCKET).await
    }

    async fn client_of(dir: &Path, socket: &str) -> Client {
        Client::connect_within(dir.join(socket), Duration::from_secs(5))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn requests_reach_control_and_answers_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let _server = echo(dir.path());
        let mut client = client(dir.path()).await;
        let said = client.prepare(&request()).await.unwrap_err();
        assert_eq!(
            said.refused().unwrap(),
            &CniError::new(ErrorCode::EXHAUSTED, "prepare c1")
        );
        let odd = IfName::new("a?%#").unwrap();
        let said = client.attachment(&request().container, &odd).await.unwrap_err();
        assert_eq!(said.refused().unwrap().msg, "attachment c1 a?%#");
        let said = client.release(&request().container, &odd).await.unwrap_err();
        assert_eq!(said.refused().unwrap().code, ErrorCode::TRY_AGAIN_LATER);
    }

    #[tokio::test]
    async fn drops_and_connections_are_asked_for_by_the_other_socket() {
        let dir = tempfile::tempdir().unwrap();
        let _server = echo(dir.path());
        let mut client = client_of(dir.path(), API_SOCKET).await;
        let request = heddle_proto::DropsRequest {
            limit: Some(7),
            ..heddle_proto::DropsRequest::default()
        };
        let said = client.drops(&request).await.unwrap_err();
        assert_eq!(said.refused().unwrap().msg, "drops Some(7)");
        let request = heddle_proto::FlowsRequest {
            from: 8,
            ..heddle_proto::FlowsRequest::default()
        };
        let said = client.flows(&request).await.unwrap_err();
        assert_eq!(said.refused().unwrap().msg, "flows from 8");
        let said = client
            .post::<_, serde_json::Value>(path::DROPS, &serde_json::json!({"pod": "shop/db"}))
            .await
            .unwrap_err();
        assert_eq!(said.refused().unwrap().code, ErrorCode::DECODE);
    }

    #[tokio::test]
    async fn whatever_cannot_be_understood_is_refused_as_an_error_object() {
        let dir = tempfile::tempdir().unwrap();
        let _server = echo(dir.path());
        let mut client = client(dir.path()).await;
        for (path, code) in [
            ("/v1/nothing", ErrorCode::AGENT),
            ("/v1/attachments", ErrorCode::AGENT),
            ("/v1/attachments/-bad/eth0", ErrorCode::INVALID_ENVIRONMENT),
        ] {
            let said = client.get::<serde_json::Value>(path).await.unwrap_err();
            assert_eq!(said.refused().map(|e| e.code), Some(code), "{path}: {said}");
        }
        let said = client
            .post::<_, serde_json::Value>(path::ATTACHMENTS, &serde_json::json!({"x": 1}))
            .await
            .unwrap_err();
        assert_eq!(said.refused().unwrap().code, ErrorCode::DECODE);
    }

    #[tokio::test]
    async fn an_oversized_body_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let _server = echo(dir.path());
        let mut raw = tokio::net::UnixStream::connect(dir.path().join(CNI_SOCKET))
            .await
            .unwrap();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            path::ATTACHMENTS,
            MAX_REQUEST + 1
        );
        raw.write_all(head.as_bytes()).await.unwrap();
        raw.write_all(&vec![b' '; MAX_REQUEST + 1]).await.unwrap();
        let mut answer = String::new();
        raw.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 413") && answer.contains("\"code\":6"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_only_root_may_use_it() {
        let dir = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(CNI_SOCKET)).unwrap());
        let server = echo(dir.path());
        let mode = std::fs::metadata(dir.path().join(CNI_SOCKET))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(server);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let gone = Client::connect_within(dir.path().join(CNI_SOCKET), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert!(matches!(gone, ClientError::Absent { .. }), "{gone}");
        std::fs::write(dir.path().join(CNI_SOCKET), "mine").unwrap();
        let (control, _requests) = crossbeam::channel::unbounded();
        assert!(
            Server::start(dir.path(), &control)
                .unwrap_err()
                .to_string()
                .contains("no socket")
        );
    }
}
