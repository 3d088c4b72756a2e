//! Follows one kind: a complete list, and then each change.
//!
//! `kube`'s watcher lists, watches from the list's version, reconnects, and lists again when the server no longer has that
//! version (410 Gone). Here its results become events, and its errors the health of the kind.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use heddle_model::{Event, Kind, ObjectKey};
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use kube::client::Body;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, DefaultBackoff, InitialListStrategy, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};

use super::connect::Connected;
use super::error::{causes, first_words};
use super::health::Health;
use super::mirror::Mirror;
use super::raw::Raw;
use super::report::Observed;
use super::resource::Resource;
use super::saved::Saved;
use crate::decode::parts::{KindParts, NodeParts, OtherParts, PodParts, SliceParts};
use crate::source::Batch;

/// The inputs of a follower.
pub(super) struct Inputs {
    /// The client to use.
    pub(super) clients: watch::Receiver<Option<Connected>>,
    /// The cluster that an earlier agent saved, once it is to be served.
    pub(super) saved: watch::Receiver<Option<Arc<Saved>>>,
}

/// The receivers of a follower's findings.
pub(super) struct Outputs {
    pub(super) events: mpsc::Sender<Batch>,
    pub(super) health: Health,
    pub(super) observed: Arc<Observed>,
}

/// Follows a kind until the receiver of the events is gone.
pub(super) async fn follow(kind: Kind, origin: Arc<str>, inputs: Inputs, outputs: Outputs) {
    let Inputs { mut clients, saved } = inputs;
    let Outputs {
        events,
        health,
        observed,
    } = outputs;
    let mut follower = KindFollower {
        kind,
        mirror: Mirror::new(kind, origin),
        saved,
        events,
        health,
        observed,
        versions: Resource::of(kind),
        version: 0,
        may_stream: true,
        is_listing: true,
        not_found: 0,
        absent_backoff: DefaultBackoff::default(),
    };
    loop {
        let connected = clients.borrow_and_update().clone();
        let Some(connected) = connected else {
            tokio::select! {
                changed = clients.changed() => if changed.is_err() {
                    return;
                },
                Some(saved) = next_saved(&mut follower.saved) => if follower.serve_saved(&saved).await.is_break() {
                    return;
                },
            }
            continue;
        };
        let connected = Connected {
            client: reporting_client(connected.client, kind, follower.health.clone()),
            ..connected
        };
        tokio::select! {
            changed = clients.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            ended = follower.watch_kind(connected) => {
                if ended.is_break() {
                    return;
                }
            }
        }
    }
}

/// Returns the saved cluster once it is to be served; waits forever after that.
async fn next_saved(saved: &mut watch::Receiver<Option<Arc<Saved>>>) -> Option<Arc<Saved>> {
    match saved.changed().await {
        Ok(()) => saved.borrow_and_update().clone(),
        Err(_) => std::future::pending().await,
    }
}

/// Returns a client that ends the fault of a kind when a watch begins.
///
/// The watcher reports nothing then. Without this, a kind whose objects rarely change would seem broken long after its watch works
/// again.
fn reporting_client(client: Client, kind: Kind, health: Health) -> Client {
    let send = move |request: Request<Body>| {
        let (client, health) = (client.clone(), health.clone());
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        async move {
            let response = client.send(request).await?;
            // A proxy may answer with a page of its own.
            let content = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            let is_json = content.is_some_and(|content| content.starts_with(b"application/json"));
            if is_watch && is_json && response.status().is_success() {
                health.answered(kind);
            }
            Ok::<_, kube::Error>(response)
        }
    };
    Client::new(tower::service_fn(send), "default")
}

/// A kind that is followed.
struct KindFollower {
    kind: Kind,
    mirror: Mirror,
    /// The cluster that an earlier agent saved, once it is to be served.
    saved: watch::Receiver<Option<Arc<Saved>>>,
    events: mpsc::Sender<Batch>,
    health: Health,
    observed: Arc<Observed>,
    /// The versions in which the kind may be served, and the one that is asked for now.
    versions: Vec<Resource>,
    version: usize,
    /// False once the server has refused to stream a list.
    may_stream: bool,
    /// True from the beginning of a list to its end.
    is_listing: bool,
    /// How often in a row the server did not know a version of the kind.
    not_found: usize,
    absent_backoff: DefaultBackoff,
}

impl KindFollower {
    fn resource(&self) -> Resource {
        self.versions[self.version % self.versions.len()]
    }

    /// Watches, and reads of each object only what the kind's decoder reads.
    async fn watch_kind(&mut self, connected: Connected) -> ControlFlow<()> {
        match self.kind {
            Kind::Pod => self.watch::<PodParts>(connected).await,
            Kind::Node => self.watch::<NodeParts>(connected).await,
            Kind::EndpointSlice => self.watch::<SliceParts>(connected).await,
            Kind::ServiceCidr | Kind::Namespace | Kind::Service | Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => {
                self.watch::<OtherParts>(connected).await
            }
        }
    }

    /// Lists and watches with one client. Breaks when nobody wants the events; continues when the watch must begin again.
    async fn watch<P: KindParts>(&mut self, connected: Connected) -> ControlFlow<()> {
        let resource = self.resource();
        let strategy = if connected.streams_lists && self.may_stream {
            InitialListStrategy::StreamingList
        } else {
            InitialListStrategy::ListWatch
        };
        let config = watcher::Config {
            initial_list_strategy: strategy.clone(),
            ..watcher::Config::default()
        };
        let api: Api<Raw<P>> = Api::all_with(connected.client, &resource);
        let mut stream = pin!(watcher(api, config).backoff(DefaultBackoff::default()));
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                Some(saved) = next_saved(&mut self.saved) => {
                    if self.serve_saved(&saved).await.is_break() {
                        return ControlFlow::Break(());
                    }
                    continue;
                }
            };
            let Some(next) = next else {
                return ControlFlow::Continue(());
            };
            match next {
                Ok(event) => {
                    // The list has not been asked for at its beginning.
                    if !matches!(event, watcher::Event::Init) {
                        self.health.answered(self.kind);
                    }
                    let events = self.apply(event, &resource);
                    if !events.is_empty() && self.events.send(Batch::now(events)).await.is_err() {
                        return ControlFlow::Break(());
                    }
                }
                Err(error) => match self.fail(&error, strategy == InitialListStrategy::StreamingList) {
                    Next::Retry => {}
                    Next::ListByPages => {
                        self.may_stream = false;
                        return ControlFlow::Continue(());
                    }
                    Next::OtherVersion => {
                        self.version += 1;
                        if self.not_found.is_multiple_of(self.versions.len()) {
                            self.pause_for_absent().await;
                        }
                        return ControlFlow::Continue(());
                    }
                    Next::Absent => {
                        let events = self.absent();
                        if self.events.send(Batch::now(events)).await.is_err() {
                            return ControlFlow::Break(());
                        }
                        self.version += 1;
                        self.pause_for_absent().await;
                        return ControlFlow::Continue(());
                    }
                },
            }
        }
    }

    /// Waits until a kind that the server does not have is asked for again.
    async fn pause_for_absent(&mut self) {
        let pause = self.absent_backoff.next().unwrap_or(Duration::from_secs(30));
        tokio::time::sleep(pause).await;
    }

    /// Reports the objects that an earlier agent saved, unless the server has listed them. Breaks when nobody wants the events.
    async fn serve_saved(&mut self, saved: &Saved) -> ControlFlow<()> {
        let part = saved.take(self.kind);
        if self.health.is_kind_synced(self.kind) {
            return ControlFlow::Continue(());
        }
        let mut events = Vec::new();
        self.mirror.put_saved(part, &mut events);
        events.push(Event::Synced(self.kind));
        let objects = self.mirror.len();
        self.health.edit(self.kind, |health| {
            (health.objects, health.saved_at) = (objects, Some(saved.saved_at));
        });
        match self.events.send(Batch::now(events)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Returns the events that follow from one of the watcher.
    fn apply<P>(&mut self, event: watcher::Event<Raw<P>>, resource: &Resource) -> Vec<Event> {
        let mut events = Vec::new();
        match event {
            watcher::Event::Init => {
                self.mirror.begin_list();
                self.is_listing = true;
            }
            watcher::Event::InitApply(mut raw) | watcher::Event::Apply(mut raw) => {
                raw.prepare(resource);
                self.observed.see(self.kind, &raw);
                self.mirror.put(&raw.value, &mut events);
                self.seen(raw.meta.resource_version);
            }
            watcher::Event::InitDone => {
                self.mirror.end_list(&mut events);
                self.forget(&events);
                self.is_listing = false;
                self.listed();
            }
            watcher::Event::Delete(raw) => {
                if let Some(name) = raw.meta.name {
                    let key = ObjectKey::new(raw.meta.namespace.unwrap_or_default(), name);
                    self.mirror.remove(key, &mut events);
                }
                self.forget(&events);
                self.seen(raw.meta.resource_version);
            }
        }
        events
    }

    /// Forgets what was observed of deleted objects.
    fn forget(&self, events: &[Event]) {
        for event in events {
            if let Event::Delete(object) = event {
                self.observed.forget(object);
            }
        }
    }

    /// Returns the events of a kind that the server does not have: it is complete, and empty.
    fn absent(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.mirror.begin_list();
        self.mirror.end_list(&mut events);
        self.health.edit(self.kind, |health| {
            (health.synced, health.absent, health.objects, health.saved_at) = (true, true, 0, None);
        });
        self.health.answered(self.kind);
        events
    }

    /// Records the version of an object that came or went.
    fn seen(&mut self, version: Option<String>) {
        let objects = self.mirror.len();
        self.health.edit(self.kind, |health| {
            (health.absent, health.objects) = (false, objects);
            if let Some(version) = version {
                health.resource_version = version;
            }
        });
        self.found();
    }

    /// Records the end of a complete list.
    fn listed(&mut self) {
        let objects = self.mirror.len();
        self.health.edit(self.kind, |health| {
            (health.synced, health.absent, health.objects, health.saved_at) = (true, false, objects, None);
        });
        self.found();
    }

    /// Forgets that the server did not know the kind.
    fn found(&mut self) {
        if self.not_found > 0 {
            self.not_found = 0;
            self.absent_backoff = DefaultBackoff::default();
        }
    }

    /// Records an error and returns what to do.
    fn fail(&mut self, error: &watcher::Error, was_streaming: bool) -> Next {
        let resource = self.resource();
        let fault = WatchFault::of(error, &resource);
        if fault.code == 404 && may_be_absent(self.kind) {
            self.not_found += 1;
            // Every version is asked for, and twice if there are objects: their loss would change policy.
            let rounds = if self.mirror.len() == 0 { 1 } else { 2 };
            return if self.not_found >= rounds * self.versions.len() {
                Next::Absent
            } else {
                Next::OtherVersion
            };
        }
        // A server that cannot stream lists says that the request is invalid (400, 422), or, above an etcd before 3.4.25, that a
        // feature of its storage is disabled (500).
        if was_streaming && self.is_listing && matches!(fault.code, 400 | 422 | 500) {
            tracing::info!(kind = %self.kind, "{}: the list is read by pages", fault.text);
            return Next::ListByPages;
        }
        let mut is_news = false;
        self.health.edit(self.kind, |health| {
            health.reconnects += 1;
            if fault.is_unreachable {
                health.unreachable_since.get_or_insert_with(Instant::now);
            } else {
                health.answered_at = Some(Instant::now());
                health.unreachable_since = None;
            }
            // 410 is the usual end of a watch that was away for long.
            is_news = fault.code != 410 && health.reported.as_ref() != Some(&fault.text);
            if is_news {
                health.reported = Some(fault.text.clone());
            }
            health.error = Some(fault.text.clone());
        });
        if is_news {
            tracing::warn!(kind = %self.kind, "{}; its objects stay as they are, and heddle tries again", fault.text);
        }
        Next::Retry
    }
}

/// The consequence of an error.
enum Next {
    /// The watcher tries again after a pause.
    Retry,
    /// The list is read page by page.
    ListByPages,
    /// The server does not have this version of the kind.
    OtherVersion,
    /// The server does not have the kind.
    Absent,
}

/// Returns true for the kinds that an API server may lack: the ones of a CustomResourceDefinition or of later versions. A server
/// without any other kind is none of Kubernetes.
const fn may_be_absent(kind: Kind) -> bool {
    matches!(kind, Kind::ServiceCidr | Kind::ClusterNetworkPolicy)
}

/// An error of the watcher, in the words of an operator.
struct WatchFault {
    /// The HTTP status; 0 if there was no answer.
    code: u16,
    text: String,
    /// Another server or newer credentials may help.
    is_unreachable: bool,
}

impl WatchFault {
    fn of(error: &watcher::Error, resource: &Resource) -> Self {
        let name = resource.full_name();
        let (verb, status) = match error {
            watcher::Error::InitialListFailed(e) => ("list", e),
            watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => ("watch", e),
            watcher::Error::WatchError(status) => return Self::of_status("watch", &name, status),
            watcher::Error::NoResourceVersion => {
                return Self {
                    code: 0,
                    text: format!("cannot watch {name}: the answer has no resourceVersion, so it is no API server's"),
                    is_unreachable: false,
                };
            }
        };
        match status {
            kube::Error::Api(status) => Self::of_status(verb, &name, status),
            other => Self {
                code: 0,
                text: format!("cannot {verb} {name}: {}", first_words(&causes(other))),
                is_unreachable: !matches!(other, kube::Error::SerdeError(_)),
            },
        }
    }

    fn of_status(verb: &str, name: &str, status: &kube::core::Status) -> Self {
        let text = match status.code {
            403 => format!(
                "the agent's account may not {verb} {name}: give it the verbs list and watch on {name} (403: {})",
                first_words(&status.message)
            ),
            404 => format!(
                "the server does not know {name} (404), so it is no API server of Kubernetes: check its address"
            ),
            401 => format!("the API server does not accept the credentials for {verb} {name} (401): renew them"),
            code => format!("cannot {verb} {name} ({code}): {}", first_words(&status.message)),
        };
        Self {
            code: status.code,
            text,
            is_unreachable: status.code == 401,
        }
    }
}
