//! Kubernetes Events about refused policies and Services.
//!
//! All agents of a cluster refuse the same objects. So an Event's name follows from the object's UID and the message: the first
//! agent creates it, and the others are told that it exists. They also wait a random time that grows with the number of
//! nodes, so that a refusal does not cost the API server a burst. The server deletes Events after an hour (`--event-ttl`);
//! while a refusal lasts, its Event is created again.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use heddle_model::{Cause, Kind, ObjectRef, Rejection, Subject};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher::DefaultBackoff;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::connect::Connected;
use super::super::health::Health;
use super::super::resource::Resource;
use super::client::client;
use super::faults::Faults;
use super::observed::{Observed, is_reported_kind};

/// The component that Events name.
const COMPONENT: &str = "heddle";
/// The resource, as RBAC rules name it.
const EVENTS: &str = "events";
/// The namespace of Events about objects without one, as Kubernetes' own components choose it.
const NAMESPACE_OF_CLUSTER_OBJECTS: &str = "default";
/// The least time between two Events of one agent.
const GAP: Duration = Duration::from_secs(1);
/// The most time that an agent waits before an Event, for each node of the cluster: 50 agents a second ask the server.
const SPREAD_PER_NODE: Duration = Duration::from_millis(20);
/// The longest such time.
const MAX_SPREAD: Duration = Duration::from_secs(100);
/// The time after which an Event is created again.
const LIFETIME: Duration = Duration::from_secs(3600);
/// The longest message of an Event that the API server takes (`NoteLengthLimit`).
const MAX_MESSAGE: usize = 1024;
/// The longest name of an object (RFC 1123, as Kubernetes applies it), without the dot and the hash.
const MAX_NAME: usize = 253 - 17;

/// Returns true if a rejection gets an Event.
pub(super) fn is_reported(rejection: &Rejection) -> bool {
    matches!(&rejection.subject, Subject::Object(object) if is_reported_kind(object.kind))
}

/// A refusal as its Event tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ReportedRefusal {
    object: ObjectRef,
    uid: String,
    reason: &'static str,
    message: String,
}

impl ReportedRefusal {
    /// Returns the refusal that a rejection is about; `None` if the object's UID is not known.
    fn of(rejection: &Rejection, observed: &Observed) -> Option<Self> {
        let Subject::Object(object) = &rejection.subject else {
            return None;
        };
        let parts = [&rejection.field, &rejection.value, &rejection.message];
        let message = parts.map(String::as_str).into_iter().filter(|part| !part.is_empty());
        Some(Self {
            uid: observed.uid(object)?,
            object: object.clone(),
            reason: match rejection.cause {
                Cause::Ignored => "PartlyIgnored",
                Cause::Conflict => "Conflict",
                Cause::Unreadable | Cause::Invalid | Cause::Duplicate => "Rejected",
            },
            message: message
                .collect::<Vec<_>>()
                .join(": ")
                .chars()
                .take(MAX_MESSAGE)
                .collect(),
        })
    }

    fn event(&self, node: Option<&str>) -> Event {
        let now = Time(Timestamp::now());
        let key = &self.object.key;
        let namespace = match key.namespace.is_empty() {
            true => NAMESPACE_OF_CLUSTER_OBJECTS.to_owned(),
            false => key.namespace.to_string(),
        };
        let version = Resource::of(self.object.kind).first().map(Resource::api_version);
        Event {
            metadata: ObjectMeta {
                name: Some(self.event_name()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: version,
                kind: Some(self.object.kind.to_string()),
                namespace: (!key.namespace.is_empty()).then(|| key.namespace.to_string()),
                name: Some(key.name.to_string()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message.clone()),
            source: Some(EventSource {
                component: Some(COMPONENT.to_owned()),
                host: node.map(str::to_owned),
            }),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            ..Event::default()
        }
    }

    /// Returns the Event's name, which is the same for every agent.
    fn event_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.uid, self.reason, &self.message).hash(&mut hasher);
        let name = self.object.key.name.get(..MAX_NAME).unwrap_or(&self.object.key.name);
        format!("{}.{:016x}", name.trim_end_matches(['-', '.']), hasher.finish())
    }
}

/// Keeps an Event for each refusal, until the senders are gone.
pub(super) async fn keep_reported(
    mut rejections: watch::Receiver<Arc<[Rejection]>>,
    observed: &Observed,
    health: &Health,
    mut clients: watch::Receiver<Option<Connected>>,
    faults: &Faults,
) {
    // The time at which each present refusal gets its next Event.
    let mut due: BTreeMap<ReportedRefusal, Instant> = BTreeMap::new();
    let mut backoff = DefaultBackoff::default();
    loop {
        let present: BTreeSet<ReportedRefusal> = {
            let rejections = rejections.borrow_and_update();
            rejections
                .iter()
                .filter_map(|rejection| ReportedRefusal::of(rejection, observed))
                .collect()
        };
        due.retain(|refusal, _| present.contains(refusal));
        let spread = (SPREAD_PER_NODE * u32::try_from(health.objects(Kind::Node)).unwrap_or(u32::MAX)).min(MAX_SPREAD);
        for refusal in present {
            due.entry(refusal)
                .or_insert_with(|| Instant::now() + spread.mul_f64(fastrand::f64()));
        }
        let first = due.iter().min_by_key(|(_, at)| **at);
        let Some((refusal, at)) = first.map(|(refusal, at)| (refusal.clone(), *at)) else {
            faults.clear(EVENTS);
            if rejections.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = rejections.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = sleep_until(at) => {}
        }
        let Some(client) = client(&mut clients).await else {
            return;
        };
        let pause = match create(client, &refusal, observed.node_name(), faults).await {
            Created::Done => {
                backoff = DefaultBackoff::default();
                due.insert(refusal, Instant::now() + LIFETIME);
                GAP
            }
            Created::Failed => backoff.next().unwrap_or(GAP).max(GAP),
        };
        tokio::time::sleep(pause).await;
    }
}

/// The end of a try to create an Event.
enum Created {
    /// It exists, or cannot exist because its namespace is gone.
    Done,
    Failed,
}

async fn create(client: kube::Client, refusal: &ReportedRefusal, node: Option<&str>, faults: &Faults) -> Created {
    let event = refusal.event(node);
    let namespace = event
        .metadata
        .namespace
        .as_deref()
        .unwrap_or(NAMESPACE_OF_CLUSTER_OBJECTS);
    let api: Api<Event> = Api::namespaced(client, namespace);
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => {}
        // It exists; its namespace is gone, or is being deleted.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("being terminated") => {}
        Err(error) => {
            faults.record("create", EVENTS, Err(&error));
            return Created::Failed;
        }
    }
    faults.record("create", EVENTS, Ok(()));
    Created::Done
}

#[cfg(test)]
mod tests {
    use heddle_model::ObjectKey;

    use super::*;

    fn refusal(name: &str, message: &str) -> ReportedRefusal {
        ReportedRefusal {
            object: ObjectRef::new(Kind::NetworkPolicy, ObjectKey::new("shop", name)),
            uid: "u1".to_owned(),
            reason: "Rejected",
            message: message.to_owned(),
        }
    }

    #[test]
    fn every_agent_gives_an_event_the_same_name() {
        let first = refusal("db", "spec: bad");
        assert_eq!(
            first.event(Some("n1")).metadata.name,
            first.event(Some("n2")).metadata.name
        );
        assert_ne!(first.event_name(), refusal("db", "spec: worse").event_name());
        let long = refusal(&format!("{}-{}", "a".repeat(MAX_NAME - 1), "b".repeat(10)), "");
        let name = long.event_name();
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
    }

    #[test]
    fn an_event_names_its_object_as_kubectl_describe_looks_for_it() {
        let event = refusal("db", "spec.ingress[0].ports[0].port: 65537: must be a port number").event(Some("n1"));
        let object = &event.involved_object;
        assert_eq!(object.api_version.as_deref(), Some("networking.k8s.io/v1"));
        assert_eq!(object.kind.as_deref(), Some("NetworkPolicy"));
        assert_eq!(
            (object.namespace.as_deref(), object.name.as_deref()),
            (Some("shop"), Some("db"))
        );
        assert_eq!(object.uid.as_deref(), Some("u1"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        let policy = ReportedRefusal {
            object: ObjectRef::new(Kind::ClusterNetworkPolicy, ObjectKey::cluster("deny")),
            ..refusal("", "")
        };
        let event = policy.event(None);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.involved_object.namespace, None);
    }
}
