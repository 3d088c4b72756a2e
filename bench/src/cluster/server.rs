//! The server: lists, watches and the stream of changes over plain HTTP.
//!
//! Beside the paths of the API it has three of its own: `/bench/rate?events=N` sets the changes a second,
//! `/bench/probe?endpoints=ADDRESS,...` replaces the endpoints of Service `heddle-probe`, and `/bench/sent` returns what was
//! sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heddle_model::Kind;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::object;
use super::plan::Plan;
use super::state::State;
use super::stream::{Event, Stream};

/// Objects of a streamed list that are written together.
const TOGETHER: u32 = 32;
/// Changes that a watch may begin before.
const REMEMBERED: usize = 100_000;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The state that requests and the stream share.
struct Shared {
    state: State,
    watches: BTreeMap<Kind, Vec<UnboundedSender<Bytes>>>,
    past: std::collections::VecDeque<Event>,
    /// Changes a second.
    rate: u64,
    /// Changes and bytes that were sent to watches.
    sent: (u64, u64),
    sent_by_kind: BTreeMap<Kind, u64>,
}

type Handle = Arc<Mutex<Shared>>;

fn lock(handle: &Handle) -> MutexGuard<'_, Shared> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves a cluster until the process ends.
///
/// # Errors
/// The socket cannot be used.
pub fn serve(plan: Plan, listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let seed = plan.seed;
    let handle: Handle = Arc::new(Mutex::new(Shared {
        state: State::new(plan),
        watches: BTreeMap::new(),
        past: std::collections::VecDeque::new(),
        rate: 0,
        sent: (0, 0),
        sent_by_kind: BTreeMap::new(),
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(change(Arc::clone(&handle), Stream::new(seed)));
        loop {
            let (connection, _) = listener.accept().await?;
            connection.set_nodelay(true)?;
            let handle = Arc::clone(&handle);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = answer(&handle, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                // The client closes connections as it likes.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service)
                    .await;
            });
        }
    })
}

/// Makes changes at the rate that is set. A late wake-up is made good at once.
async fn change(handle: Handle, mut stream: Stream) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let (mut begun, mut made, mut rate) = (Instant::now(), 0u64, 0u64);
    loop {
        tick.tick().await;
        let mut shared = lock(&handle);
        if shared.rate != rate {
            (begun, made, rate) = (Instant::now(), 0, shared.rate);
        }
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while made < due {
            made += 1;
            let event = stream.next(&mut shared.state);
            shared.send(event);
        }
    }
}

impl Shared {
    /// Sends a change to the watches of its kind.
    fn send(&mut self, event: Event) {
        self.past.push_back(event);
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
        let line = self.line(event);
        self.sent.0 += 1;
        self.sent.1 += line.len() as u64;
        *self.sent_by_kind.entry(event.kind).or_default() += 1;
        if let Some(watches) = self.watches.get_mut(&event.kind) {
            watches.retain(|watch| watch.send(line.clone()).is_ok());
        }
    }

    fn line(&self, event: Event) -> Bytes {
        let mut line = format!("{{\"type\":\"{}\",\"object\":", event.verb.as_str());
        object::write_revision(&self.state, event.kind, event.index, event.revision, &mut line);
        line.push_str("}\n");
        line.into()
    }
}

/// Answers a request.
fn answer(handle: &Handle, request: &Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        let pairs = &mut query.split('&');
        pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    match request.uri().path() {
        "/version" => json(
            r#"{"major":"1","minor":"36","gitVersion":"v1.36.3","gitCommit":"","gitTreeState":"clean","buildDate":"2026-08-12T00:00:00Z","goVersion":"go1.26","compiler":"gc","platform":"linux/amd64"}"#
                .to_owned(),
        ),
        "/bench/rate" => {
            lock(handle).rate = parameter("events").and_then(|n| n.parse().ok()).unwrap_or(0);
            json("{}".to_owned())
        }
        "/bench/probe" => {
            let addresses = parameter("endpoints").unwrap_or_default().split(',');
            let endpoints = addresses.filter_map(|address| address.parse().ok()).collect();
            let mut shared = lock(handle);
            let event = Stream::probe(&mut shared.state, endpoints);
            shared.send(event);
            json("{}".to_owned())
        }
        "/bench/sent" => {
            let shared = lock(handle);
            let kinds: BTreeMap<&str, u64> = shared.sent_by_kind.iter().map(|(k, n)| (k.as_str(), *n)).collect();
            json(serde_json::json!({"events": shared.sent.0, "bytes": shared.sent.1, "kinds": kinds}).to_string())
        }
        path => match Kind::ALL.into_iter().find(|kind| path == path_of(*kind)) {
            None => not_found(path),
            Some(kind) if parameter("watch").is_some() => {
                let from = parameter("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
                watch(handle, kind, parameter("sendInitialEvents").is_some(), from)
            }
            Some(kind) => {
                let number = |name| parameter(name).and_then(|text| text.parse::<u32>().ok());
                page(handle, kind, number("continue").unwrap_or(0), number("limit").unwrap_or(u32::MAX))
            }
        },
    }
}

const fn path_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "/api/v1/nodes",
        Kind::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
        Kind::Namespace => "/api/v1/namespaces",
        Kind::Pod => "/api/v1/pods",
        Kind::Service => "/api/v1/services",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
        Kind::NetworkPolicy => "/apis/networking.k8s.io/v1/networkpolicies",
        Kind::ClusterNetworkPolicy => "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
    }
}

/// Answers with a watch. A streamed list comes before the changes; changes during the list come after it.
fn watch(handle: &Handle, kind: Kind, lists: bool, from: u64) -> Response<Body> {
    let (sender, receiver) = unbounded_channel();
    let mut shared = lock(handle);
    if !lists {
        for event in shared
            .past
            .iter()
            .filter(|event| event.kind == kind && event.revision.version > from)
        {
            // This function holds the receiver.
            let _ = sender.send(shared.line(*event));
        }
    }
    shared.watches.entry(kind).or_default().push(sender);
    let listed = Listing {
        handle: Arc::clone(handle),
        kind,
        next: 0,
        version: shared.state.version,
    };
    let first = lists.then_some(listed);
    Response::new(stream(first, receiver))
}

/// A list that is written while it is sent.
struct Listing {
    handle: Handle,
    kind: Kind,
    next: u32,
    version: u64,
}

impl Listing {
    /// Returns some more lines, and the rest of the list.
    fn write(mut self) -> (Bytes, Option<Self>) {
        let shared = lock(&self.handle);
        let count = shared.state.plan.count(self.kind);
        let mut text = String::with_capacity(1 << 18);
        let end = (self.next + TOGETHER).min(count);
        for index in self.next..end {
            let begin = text.len();
            text.push_str("{\"type\":\"ADDED\",\"object\":");
            let before = text.len();
            object::write(&shared.state, self.kind, index, &mut text);
            if text.len() == before {
                text.truncate(begin);
            } else {
                text.push_str("}\n");
            }
        }
        drop(shared);
        self.next = end;
        if end < count {
            return (text.into(), Some(self));
        }
        text += &format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"{}\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{}\",\
             \"annotations\":{{\"k8s.io/initial-events-end\":\"true\"}}}}}}}}\n",
            self.kind, self.version
        );
        (text.into(), None)
    }
}

fn stream(listing: Option<Listing>, receiver: UnboundedReceiver<Bytes>) -> Body {
    let frames = futures::stream::unfold((listing, receiver), |(listing, mut receiver)| async move {
        let (bytes, listing) = match listing {
            Some(listing) => listing.write(),
            None => (receiver.recv().await?, None),
        };
        Some((Ok::<_, Infallible>(Frame::data(bytes)), (listing, receiver)))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Answers with a page of a list. The token is the index of the next object.
fn page(handle: &Handle, kind: Kind, first: u32, limit: u32) -> Response<Body> {
    let shared = lock(handle);
    let count = shared.state.plan.count(kind);
    let end = first.saturating_add(limit).min(count);
    let token = if end < count { end.to_string() } else { String::new() };
    let mut text = format!(
        "{{\"kind\":\"{kind}List\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{}\",\"continue\":\"{token}\"}},\"items\":[",
        shared.state.version
    );
    let mut is_first = true;
    for index in first..end {
        let before = text.len();
        if !is_first {
            text.push(',');
        }
        let begin = text.len();
        object::write(&shared.state, kind, index, &mut text);
        if text.len() == begin {
            text.truncate(before);
        } else {
            is_first = false;
        }
    }
    text.push_str("]}");
    json(text)
}

fn json(text: String) -> Response<Body> {
    Response::new(Full::new(Bytes::from(text)).boxed_unsync())
}

fn not_found(path: &str) -> Response<Body> {
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
        "message": format!("{path} is not served"), "code": 404});
    let mut response = json(status.to_string());
    *response.status_mut() = hyper::StatusCode::NOT_FOUND;
    response
}
