//! The HTTP servers of both sockets: routers made from the lists of routes, limits, decoding, and error answers.

use std::convert::identity;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, RawPathParamsRejection};
use axum::extract::{DefaultBodyLimit, RawPathParams, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use crossbeam::channel::Sender;
use heddle_proto::{
    API_SOCKET, CNI_SOCKET, CniError, ContainerId, DropsRequest, ErrorCode, FlowsRequest, IfName, MAX_REQUEST,
    PrepareRequest, QueryError, ReadyRequest, SocketError, TextError, api_routes, cni_routes, request,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::socket::{SocketFile, listen};
use super::{Reply, Request};
use crate::read_model::Queries;

/// A socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at the socket {}: {source}", path.display())]
pub struct ApiError {
    /// The socket.
    path: PathBuf,
    /// The system's error.
    source: std::io::Error,
}

/// Both sockets; they close when this is dropped.
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

impl Server {
    /// Listens at both sockets of a run directory, whose lock the caller holds. Requests of the CNI socket go to the
    /// controller, queries of the operator's socket to the read model. Called on a tokio runtime.
    ///
    /// # Errors
    /// A socket cannot be bound.
    pub fn start(run_dir: &Path, controller: &Sender<Request>, queries: Arc<dyn Queries>) -> Result<Self, ApiError> {
        let mut server = Self {
            tasks: Vec::new(),
            _files: Vec::new(),
        };
        let cni = finish::<_, CniError>(cni_router(), controller.clone());
        let api = finish::<_, QueryError>(api_router(), queries);
        for (name, app) in [(CNI_SOCKET, cni), (API_SOCKET, api)] {
            let path = run_dir.join(name);
            let (listener, file) = listen(&path).map_err(|source| ApiError {
                path: path.clone(),
                source,
            })?;
            server._files.push(file);
            server.tasks.push(tokio::spawn(async move {
                if let Err(e) = axum::serve(listener, app).await {
                    tracing::error!(socket = %path.display(), error = %e, "the socket is no longer served");
                }
            }));
        }
        Ok(server)
    }
}

/// The parameters of a path, as axum extracts them.
type Params = Result<RawPathParams, RawPathParamsRejection>;
/// The body of a request, as axum extracts it.
type RequestBody = Result<Bytes, BytesRejection>;

/// Makes a router from a list of routes. `$serve` makes the future of an answer from the state and the decoded request.
macro_rules! router {
    ($function:ident, $state:ty, $error:ty, $serve:ident; $($variant:ident $name:ident: $method:ident $path:literal
        [$($param:ident: $param_type:ident),*] [$($body:ident)?] -> $answer:ident, $doc:literal;)*) => {
        fn $function() -> Router<$state> {
            Router::new()$(.route($path, on(
                MethodFilter::$method,
                |State(state): State<$state>, params: Params, body: RequestBody| async move {
                    // A route without parameters or body uses neither.
                    let (_, _) = (&params, &body);
                    $(let $param: $param_type = match parameter(&params, stringify!($param)) {
                        Ok(value) => value,
                        Err(refusal) => return failure(refusal.0, &refusal.1),
                    };)*
                    $(let request: $body = match decode::<$body, $error>(body) {
                        Ok(request) => request,
                        Err(refusal) => return failure(refusal.0, &refusal.1),
                    };)?
                    $serve!(state, $variant $name, [$($param),*] [$(identity::<$body>(request))?])
                },
            )))*
        }
    };
}

/// Sends a request to the controller and waits for its answer.
macro_rules! ask_controller {
    ($state:ident, $variant:ident $name:ident, [$($param:ident),*] [$($request:expr)?]) => {
        forward_to_controller(&$state, |reply| Request::$variant { $($param,)* $(request: $request,)? reply }).await
    };
}

/// Answers a query from the read model, on a thread for blocking work, so that a large answer delays no other request.
macro_rules! ask_read_model {
    ($state:ident, $variant:ident $name:ident, [] [$($request:expr)?]) => {
        answer(
            tokio::task::spawn_blocking(move || $state.$name($(&$request)?))
                .await
                .unwrap_or_else(|_| Err(QueryError::stopping())),
        )
    };
}

macro_rules! cni_router {
    ($($routes:tt)*) => { router! { cni_router, Sender<Request>, CniError, ask_controller; $($routes)* } };
}

macro_rules! api_router {
    ($($routes:tt)*) => { router! { api_router, Arc<dyn Queries>, QueryError, ask_read_model; $($routes)* } };
}

cni_routes!(cni_router);
api_routes!(api_router);

/// Adds the answers for unknown paths and methods, the limit for bodies, and the state.
fn finish<S: Clone + Send + Sync + 'static, E: SocketError>(routes: Router<S>, state: S) -> Router {
    routes
        .fallback(async || failure(StatusCode::NOT_FOUND, &E::no_such_path()))
        .method_not_allowed_fallback(async || failure(StatusCode::METHOD_NOT_ALLOWED, &E::no_such_method()))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(state)
}

/// Sends a request to the controller, waits for the answer, and encodes it.
async fn forward_to_controller<T: Serialize>(
    controller: &Sender<Request>,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Response {
    let (reply, received) = oneshot::channel();
    answer(match controller.send(request(reply)) {
        Ok(()) => received.await.unwrap_or_else(|_| Err(CniError::stopping())),
        Err(_) => Err(CniError::stopping()),
    })
}

/// Encodes an answer.
fn answer<T: Serialize, E: SocketError>(result: Result<T, E>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => {
            let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            failure(status, &error)
        }
    }
}

/// An error answer with a status of its own.
type Refusal<E> = Box<(StatusCode, E)>;

/// Decodes the body of a request.
fn decode<T: DeserializeOwned, E: SocketError>(body: RequestBody) -> Result<T, Refusal<E>> {
    let body = body.map_err(|e| {
        let message = format!("the request's body was refused: {e} (at most {MAX_REQUEST} bytes are read)");
        Box::new((e.status(), E::undecodable(message)))
    })?;
    request::body(&body).map_err(|e| Box::new((StatusCode::BAD_REQUEST, E::undecodable(e.msg))))
}

/// Reads a parameter of a path.
fn parameter<T: TryFrom<String, Error = TextError>>(params: &Params, name: &str) -> Result<T, Refusal<CniError>> {
    let bad = |message| {
        let error = CniError::new(ErrorCode::INVALID_ENVIRONMENT, message);
        Box::new((StatusCode::BAD_REQUEST, error))
    };
    let params = params.as_ref().map_err(|e| bad(e.to_string()))?;
    let value = params.iter().find(|(param, _)| *param == name);
    let value = value.map(|(_, value)| value.to_owned()).unwrap_or_default();
    T::try_from(value).map_err(|e| bad(e.to_string()))
}

/// Encodes an error with a status.
fn failure(status: StatusCode, error: &impl Serialize) -> Response {
    json(status, error)
}

/// Encodes a value as the body of an answer.
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

    use heddle_proto::client::Method;
    use heddle_proto::{Client, ClientError, PrepareRequest, QueryErrorKind};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn request() -> PrepareRequest {
        serde_json::from_value(serde_json::json!({"container": "c1", "ifname": "eth0", "netns": "/run/netns/x"}))
            .unwrap()
    }

    /// Starts a server whose controller refuses every request and repeats the request in the error.
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
                    // A controller that stops drops the reply.
                    Request::Release { .. } | Request::Readiness { .. } => {}
                }
            }
        });
        Server::start(dir, &control, Arc::new(EchoQueries)).unwrap()
    }

    /// A read model that refuses every query with its parameters.
    struct EchoQueries;

    impl Queries for EchoQueries {
        fn status(&self) -> Result<heddle_proto::Status, QueryError> {
            Err(QueryError::not_found("status"))
        }

        fn drops(&self, request: &DropsRequest) -> Result<heddle_proto::Drops, QueryError> {
            Err(QueryError::not_found(format!("drops {:?}", request.limit)))
        }

        fn flows(&self, request: &FlowsRequest) -> Result<heddle_proto::Flows, QueryError> {
            Err(QueryError::not_found(format!("flows from {}", request.from)))
        }
    }

    /// Returns the query error with which the agent refused.
    fn query_error(error: &ClientError) -> (QueryErrorKind, &str) {
        match error {
            ClientError::QueryRefused { error, .. } => (error.kind, &error.message),
            other => panic!("{other}"),
        }
    }

    async fn get<E: SocketError>(client: &mut Client, path: &str) -> ClientError {
        let answer = client.send::<serde_json::Value, E>(Method::GET, path, None).await;
        answer.unwrap_err()
    }

    async fn post<E: SocketError>(client: &mut Client, path: &str, body: &str) -> ClientError {
        let body = Some(body.as_bytes().to_vec());
        let answer = client.send::<serde_json::Value, E>(Method::POST, path, body).await;
        answer.unwrap_err()
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
        let error = client.prepare(&request()).await.unwrap_err();
        assert_eq!(
            error.refused().unwrap(),
            &CniError::new(ErrorCode::EXHAUSTED, "prepare c1")
        );
        let odd = IfName::new("a?%#").unwrap();
        let error = client.attachment(&request().container, &odd).await.unwrap_err();
        assert_eq!(error.refused().unwrap().msg, "attachment c1 a?%#");
        let error = client.release(&request().container, &odd).await.unwrap_err();
        assert_eq!(error.refused().unwrap().code, ErrorCode::TRY_AGAIN_LATER);
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
        let error = client.drops(&request).await.unwrap_err();
        assert_eq!(query_error(&error), (QueryErrorKind::NotFound, "drops Some(7)"));
        let request = heddle_proto::FlowsRequest {
            from: 8,
            ..heddle_proto::FlowsRequest::default()
        };
        let error = client.flows(&request).await.unwrap_err();
        assert_eq!(query_error(&error).1, "flows from 8");
        let error = post::<QueryError>(&mut client, "/v1/drops", r#"{"pod": "shop/db"}"#).await;
        assert_eq!(query_error(&error).0, QueryErrorKind::Invalid);
        let error = get::<QueryError>(&mut client, "/v1/nothing").await;
        assert_eq!(query_error(&error).0, QueryErrorKind::NotFound);
        let error = get::<QueryError>(&mut client, "/v1/drops").await;
        assert_eq!(query_error(&error).0, QueryErrorKind::NotAllowed);
    }

    #[tokio::test]
    async fn queries_are_answered_while_the_controller_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        // No controller receives the requests of the CNI socket.
        let (control, _requests) = crossbeam::channel::unbounded();
        let _server = Server::start(dir.path(), &control, Arc::new(EchoQueries)).unwrap();
        let socket = dir.path().join(CNI_SOCKET);
        let mut cni = Client::connect_within(socket, Duration::from_millis(200))
            .await
            .unwrap();
        let error = cni.readiness().await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
        let error = client_of(dir.path(), API_SOCKET).await.status().await.unwrap_err();
        assert_eq!(query_error(&error).1, "status");
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
            let error = get::<CniError>(&mut client, path).await;
            assert_eq!(error.refused().map(|e| e.code), Some(code), "{path}: {error}");
        }
        let error = post::<CniError>(&mut client, "/v1/attachments", r#"{"x": 1}"#).await;
        assert_eq!(error.refused().unwrap().code, ErrorCode::DECODE);
    }

    #[tokio::test]
    async fn an_oversized_body_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let _server = echo(dir.path());
        let mut raw = tokio::net::UnixStream::connect(dir.path().join(CNI_SOCKET))
            .await
            .unwrap();
        let head = format!(
            "POST /v1/attachments HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
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
            Server::start(dir.path(), &control, Arc::new(EchoQueries))
                .unwrap_err()
                .to_string()
                .contains("no socket")
        );
    }
}
