//! An API server of a few kinds that follows a script.
#![allow(clippy::unwrap_used, reason = "a fault of the script ends the test")]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub const NODES: &str = "/api/v1/nodes";
pub const EVENTS: &str = "/api/v1/namespaces/a/events";
pub const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
pub const PODS: &str = "/api/v1/pods";
pub const SERVICES: &str = "/api/v1/services";
pub const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

/// The answer to every question about a kind.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The objects.
    Objects,
    /// An HTTP status, with a message.
    Status(u16, &'static str),
    /// The objects, but not as a stream.
    NoStreamOfLists,
    /// A page of a proxy.
    Html,
    /// 100 MB without a line end.
    Endless,
}

/// The objects of one kind, and the watches.
struct Kept {
    answer: Answer,
    objects: BTreeMap<String, Value>,
    /// The changes: the version, and the line of the watch.
    changes: Vec<(u64, String)>,
    watches: Vec<UnboundedSender<Bytes>>,
    /// The next line of a watch ends after so many bytes, and the watch with it.
    cut_after: Option<usize>,
    /// The next page that continues a list is answered by 410 Gone.
    next_page_is_gone: bool,
    /// A streamed list stops after so many objects.
    hold_after: Option<usize>,
    /// The rest of the lists that stopped.
    held: Vec<(UnboundedSender<Bytes>, Vec<Bytes>)>,
    asked: Vec<String>,
}

struct State {
    minor: String,
    version: u64,
    /// Watches from earlier versions are answered by 410 Gone.
    oldest: u64,
    /// False: every request is answered by 503.
    is_available: bool,
    answer_to_writes: Answer,
    /// The writes that were answered, also by an error.
    writes: usize,
    kinds: HashMap<String, Kept>,
}

/// A running server. Dropping it ends it.
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Server {
    /// Starts a server that says it is Kubernetes 1.`minor`.
    pub fn start(minor: &str) -> Self {
        let state = Arc::new(Mutex::new(State {
            minor: minor.to_owned(),
            version: 100,
            oldest: 0,
            is_available: true,
            answer_to_writes: Answer::Objects,
            writes: 0,
            kinds: HashMap::new(),
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = Arc::clone(&state);
                    tokio::spawn(async move {
                        let service = service_fn(|request: Request<Incoming>| {
                            let state = Arc::clone(&state);
                            async move {
                                Ok::<_, Infallible>(match *request.method() {
                                    Method::GET => answer(&state, &request),
                                    _ => {
                                        let path = request.uri().path().to_owned();
                                        let is_patch = request.method() == Method::PATCH;
                                        let body = request.into_body().collect().await.unwrap().to_bytes();
                                        let body: Value = serde_json::from_slice(&body).unwrap();
                                        answer_write(&state, &path, is_patch, &body)
                                    }
                                })
                            }
                        });
                        // The client closes connections as it likes.
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    });
                }
            }
        });
        Self {
            address,
            state,
            _runtime: runtime,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the version of the last change.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Adds or replaces an object.
    pub fn put(&self, path: &str, object: &Value) {
        let mut state = self.lock();
        let key = key(&object["metadata"]);
        let known = state.kind(path).objects.contains_key(&key);
        state.change(
            path,
            &key,
            if known { "MODIFIED" } else { "ADDED" },
            Some(object.clone()),
        );
    }

    /// Deletes an object.
    pub fn delete(&self, path: &str, namespace: &str, name: &str) {
        self.lock()
            .change(path, &format!("{namespace}/{name}"), "DELETED", None);
    }

    /// Deletes an object without telling anybody.
    pub fn delete_silently(&self, path: &str, namespace: &str, name: &str) {
        self.lock().kind(path).objects.remove(&format!("{namespace}/{name}"));
    }

    /// Answers watches from all versions so far by 410 Gone.
    pub fn forget_versions(&self) {
        let mut state = self.lock();
        state.oldest = state.version + 1;
    }

    /// Answers watches from versions before the last one by 410 Gone.
    pub fn forget_older_versions(&self) {
        let mut state = self.lock();
        state.oldest = state.version;
    }

    /// Sends the last change of a kind once more.
    pub fn repeat(&self, path: &str) {
        let mut state = self.lock();
        let kind = state.kind(path);
        let (_, line) = kind.changes.last().unwrap();
        let line = Bytes::from(line.clone());
        kind.watches.retain(|watch| watch.send(line.clone()).is_ok());
    }

    /// Tells the kind's watches the version of the present.
    pub fn bookmark(&self, path: &str) {
        let mut state = self.lock();
        let line = bookmark(state.version, &json!({}));
        state
            .kind(path)
            .watches
            .retain(|watch| watch.send(line.clone()).is_ok());
    }

    /// Ends the kind's watches.
    pub fn cut(&self, path: &str) {
        self.lock().kind(path).watches.clear();
    }

    /// Answers the next page that continues a list by 410 Gone.
    pub fn forget_next_page(&self, path: &str) {
        self.lock().kind(path).next_page_is_gone = true;
    }

    /// Stops streamed lists after so many objects, until they are released.
    pub fn hold_lists(&self, path: &str, after: usize) {
        self.lock().kind(path).hold_after = Some(after);
    }

    /// Continues the lists that stopped.
    pub fn release_lists(&self, path: &str) {
        let mut state = self.lock();
        let kind = state.kind(path);
        kind.hold_after = None;
        for (list, rest) in kind.held.drain(..) {
            // The client may have gone.
            let _ = rest.into_iter().try_for_each(|line| list.send(line));
        }
    }

    /// Sets the answer to questions about a kind.
    pub fn answer(&self, path: &str, answer: Answer) {
        self.lock().kind(path).answer = answer;
    }

    /// Makes the next line of the kind's watches end after so many bytes, and the watches with it.
    pub fn cut_after(&self, path: &str, bytes: usize) {
        self.lock().kind(path).cut_after = Some(bytes);
    }

    /// Answers every request by 503, or no longer.
    pub fn set_available(&self, is_available: bool) {
        self.lock().is_available = is_available;
    }

    /// Sets the answer to every write.
    pub fn answer_writes(&self, answer: Answer) {
        self.lock().answer_to_writes = answer;
    }

    /// Returns the number of writes so far.
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// Returns the objects of a kind.
    pub fn objects(&self, path: &str) -> Vec<Value> {
        self.lock().kind(path).objects.values().cloned().collect()
    }

    /// Returns an object.
    pub fn object(&self, path: &str, namespace: &str, name: &str) -> Value {
        self.lock().kind(path).objects[&format!("{namespace}/{name}")].clone()
    }

    /// Returns the queries that were asked about a kind.
    pub fn asked(&self, path: &str) -> Vec<String> {
        self.lock().kind(path).asked.clone()
    }
}

fn key(meta: &Value) -> String {
    let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

impl State {
    fn kind(&mut self, path: &str) -> &mut Kept {
        self.kinds.entry(path.to_owned()).or_insert_with(|| Kept {
            answer: Answer::Objects,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            watches: Vec::new(),
            cut_after: None,
            next_page_is_gone: false,
            hold_after: None,
            held: Vec::new(),
            asked: Vec::new(),
        })
    }

    fn change(&mut self, path: &str, key: &str, what: &str, object: Option<Value>) {
        self.version += 1;
        let version = self.version;
        let kind = self.kind(path);
        let mut shown = match object {
            Some(object) => object,
            None => kind.objects.remove(key).unwrap(),
        };
        shown["metadata"]["resourceVersion"] = version.to_string().into();
        if what != "DELETED" {
            kind.objects.insert(key.to_owned(), shown.clone());
        }
        let line = format!("{}\n", json!({"type": what, "object": shown}));
        kind.changes.push((version, line.clone()));
        let bytes = match kind.cut_after.take() {
            None => Bytes::from(line),
            Some(cut) => {
                let cut = Bytes::from(line.into_bytes()[..cut].to_vec());
                for watch in kind.watches.drain(..) {
                    let _ = watch.send(cut.clone());
                }
                return;
            }
        };
        kind.watches.retain(|watch| watch.send(bytes.clone()).is_ok());
    }
}

/// Returns the line of a bookmark.
fn bookmark(version: u64, annotations: &Value) -> Bytes {
    let object = json!({"kind": "X", "apiVersion": "v1", "metadata": {
        "resourceVersion": version.to_string(), "annotations": annotations}});
    Bytes::from(format!("{}\n", json!({"type": "BOOKMARK", "object": object})))
}

fn json_body(value: &Value) -> Body {
    Full::new(Bytes::from(value.to_string())).boxed_unsync()
}

fn status(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        _ => "Failure",
    };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code});
    Response::builder().status(code).body(json_body(&body)).unwrap()
}

fn stream(receiver: UnboundedReceiver<Bytes>) -> Body {
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Answers a write as an API server does: a patch of an object or of its status, or a new object.
fn answer_write(state: &Mutex<State>, path: &str, is_patch: bool, body: &Value) -> Response<Body> {
    let mut state = state.lock().unwrap();
    state.writes += 1;
    if let Answer::Status(code, message) = state.answer_to_writes {
        return status(code, message);
    }
    if !is_patch {
        let key = key(&body["metadata"]);
        if state.kind(path).objects.contains_key(&key) {
            return status(409, "it already exists");
        }
        state.change(path, &key, "ADDED", Some(body.clone()));
        return Response::builder().status(201).body(json_body(body)).unwrap();
    }
    let path = path.trim_end_matches("/status");
    let (kind, name) = path.rsplit_once('/').unwrap();
    let key = format!("/{name}");
    let Some(mut object) = state.kind(kind).objects.get(&key).cloned() else {
        return status(404, "not found");
    };
    let annotations = body["metadata"]["annotations"].as_object().into_iter().flatten();
    for (key, value) in annotations {
        object["metadata"]["annotations"][key] = value.clone();
    }
    // A strategic merge replaces the condition of the same type.
    for condition in body["status"]["conditions"].as_array().into_iter().flatten() {
        let conditions = object["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|other| other["type"] != condition["type"]);
        conditions.push(condition.clone());
    }
    state.change(kind, &key, "MODIFIED", Some(object.clone()));
    Response::new(json_body(&object))
}

/// Answers a request as an API server does.
fn answer(state: &Mutex<State>, request: &Request<Incoming>) -> Response<Body> {
    let mut state = state.lock().unwrap();
    if !state.is_available {
        return status(503, "the server is not available");
    }
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    if path == "/version" {
        let version = json!({"major": "1", "minor": state.minor, "gitVersion": format!("v1.{}.0", state.minor),
            "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        return Response::new(json_body(&version));
    }
    let (version, oldest) = (state.version, state.oldest);
    let kind = state.kind(&path);
    kind.asked.push(query.clone());
    match kind.answer {
        Answer::NoStreamOfLists if query.contains("sendInitialEvents") => {
            // The status comes in the stream.
            let refused = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "code": 500, "message": "the required storage feature RequestWatchProgress is disabled"}});
            return Response::new(Full::new(Bytes::from(format!("{refused}\n"))).boxed_unsync());
        }
        Answer::Objects | Answer::NoStreamOfLists => {}
        Answer::Status(code, message) => return status(code, message),
        Answer::Html => {
            let page = "<html><body><h1>Sign in</h1></body></html>".repeat(50);
            return Response::new(Full::new(Bytes::from(page)).boxed_unsync());
        }
        Answer::Endless => {
            let part = Bytes::from(vec![b'x'; 1 << 20]);
            let frames = futures::stream::iter((0..100).map(move |_| Ok::<_, Infallible>(Frame::data(part.clone()))));
            return Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
        }
    }
    let parameter = |name: &str| {
        let found = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.map(str::to_owned)
    };
    let from: u64 = parameter("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    if parameter("watch").is_some() {
        let (sender, receiver) = unbounded_channel();
        if parameter("sendInitialEvents").is_some() {
            let added = |object| Bytes::from(format!("{}\n", json!({"type": "ADDED", "object": object})));
            let mut lines: Vec<Bytes> = kind.objects.values().map(added).collect();
            lines.push(bookmark(version, &json!({"k8s.io/initial-events-end": "true"})));
            let rest = lines.split_off(kind.hold_after.unwrap_or(lines.len()));
            lines.into_iter().for_each(|line| sender.send(line).unwrap());
            if !rest.is_empty() {
                kind.held.push((sender.clone(), rest));
            }
        } else if from < oldest {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410}});
            sender.send(Bytes::from(format!("{gone}\n"))).unwrap();
        } else {
            for (_, line) in kind.changes.iter().filter(|(at, _)| *at > from) {
                sender.send(Bytes::from(line.clone())).unwrap();
            }
        }
        kind.watches.push(sender);
        return Response::new(stream(receiver));
    }
    if parameter("continue").is_some() && std::mem::take(&mut kind.next_page_is_gone) {
        return status(410, "the provided continue parameter is too old");
    }
    // A list, page by page. The token is the number of objects so far.
    let skip: usize = parameter("continue").and_then(|v| v.parse().ok()).unwrap_or(0);
    let limit: usize = parameter("limit").and_then(|v| v.parse().ok()).unwrap_or(usize::MAX);
    let items: Vec<&Value> = kind.objects.values().skip(skip).take(limit).collect();
    let more = skip + items.len() < kind.objects.len();
    let token = if more {
        (skip + items.len()).to_string()
    } else {
        String::new()
    };
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string(), "continue": token},
        "items": items});
    Response::new(json_body(&list))
}
