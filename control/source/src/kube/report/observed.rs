//! The followers' view of the objects that the agent writes about.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use heddle_model::{Kind, ObjectKey, ObjectRef};
use serde_json::Value;
use tokio::sync::watch;

use super::super::raw::Raw;

/// Returns true if refused objects of this kind get an Event.
pub(super) const fn is_reported_kind(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::NetworkPolicy | Kind::ClusterNetworkPolicy)
}

/// The parts of the agent's own Node that the agent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct OwnNode {
    /// `metadata.annotations`
    pub(super) annotations: BTreeMap<String, String>,
    /// `status` and `reason` of the condition `NetworkUnavailable`.
    pub(super) network_unavailable: Option<(String, String)>,
}

/// The followers' view.
#[derive(Debug)]
pub(in super::super) struct Observed {
    /// The name of the agent's node; `None`: nothing is written about one.
    node: Option<Arc<str>>,
    own_node: watch::Sender<Option<OwnNode>>,
    /// `metadata.uid` of each object that may get an Event, which names it.
    uids: Mutex<HashMap<ObjectRef, Box<str>>>,
}

impl Observed {
    pub(in super::super) fn new(node: Option<Arc<str>>) -> Self {
        Self {
            node,
            own_node: watch::Sender::new(None),
            uids: Mutex::default(),
        }
    }

    /// Returns the name of the agent's node.
    pub(super) fn node_name(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Returns the agent's own Node as it is followed.
    pub(super) fn own_node(&self) -> watch::Receiver<Option<OwnNode>> {
        self.own_node.subscribe()
    }

    /// Returns the UID of an object.
    pub(super) fn uid(&self, object: &ObjectRef) -> Option<String> {
        let uids = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        uids.get(object).map(ToString::to_string)
    }

    /// Records an object that the server sent.
    pub(in super::super) fn see<P>(&self, kind: Kind, raw: &Raw<P>) {
        let Some(name) = &raw.meta.name else { return };
        if kind == Kind::Node && self.node.as_deref() == Some(name) {
            self.set_own_node(Some(own_node(&raw.value)));
        }
        if is_reported_kind(kind)
            && let Some(uid) = &raw.meta.uid
        {
            let key = ObjectKey::new(raw.meta.namespace.as_deref().unwrap_or_default(), name.as_str());
            let mut uids = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
            uids.insert(ObjectRef::new(kind, key), uid.as_str().into());
        }
    }

    /// Records that an object is gone.
    pub(in super::super) fn forget(&self, object: &ObjectRef) {
        if object.kind == Kind::Node && self.node.as_deref() == Some(&*object.key.name) {
            self.set_own_node(None);
        }
        if is_reported_kind(object.kind) {
            self.uids.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
        }
    }

    fn set_own_node(&self, node: Option<OwnNode>) {
        self.own_node.send_if_modified(|before| {
            let is_changed = *before != node;
            *before = node;
            is_changed
        });
    }
}

/// Returns the parts of a Node.
fn own_node(node: &Value) -> OwnNode {
    let annotations = node["metadata"]["annotations"].as_object().into_iter().flatten();
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    OwnNode {
        annotations: annotations.map(|(key, value)| (key.clone(), text(value))).collect(),
        network_unavailable: conditions
            .filter(|condition| condition["type"] == "NetworkUnavailable")
            .map(|condition| (text(&condition["status"]), text(&condition["reason"])))
            .next(),
    }
}
