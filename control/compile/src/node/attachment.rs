//! Attachments: the local endpoints that the agent has made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_ids::PortId;
use heddle_model::{ObjectKey, Pod};
use heddle_tables::{EndpointId, WorkerId};
use heddle_wire::{Ip, MacAddr};

use crate::node::pod_host_port::PodHostPort;
use crate::policy::ids::{GroupId, PodClassId};

/// One attachment of this node, as the agent made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's endpoint. The agent chooses it, and keeps it as long as the attachment exists.
    pub id: EndpointId,
    /// The attached pod. `None`: it was attached without Kubernetes, and no policy selects it.
    pub pod: Option<ObjectKey>,
    /// The addresses. Policy and forwarding use these and ignore `status.podIPs`.
    pub addresses: ArrayVec<Ip, 4>,
    /// The MAC address of the pod's end.
    pub mac: MacAddr,
    /// The port of the host's end.
    pub port: PortId,
    /// The worker that owns the port.
    pub worker: WorkerId,
    /// The MTU of the pod's interface; 0: [`NodeConfig::local_mtu`](crate::NodeConfig::local_mtu).
    pub mtu: u16,
    /// The ports of the node that lead to the pod.
    pub host_ports: Box<[PodHostPort]>,
}

/// A local pod whose `status.podIPs` differ from the addresses of its attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressDifference {
    /// The pod.
    pub pod: ObjectKey,
    /// The addresses of its attachments: these are in the tables.
    pub attached: BTreeSet<Ip>,
    /// The addresses in its status.
    pub status: BTreeSet<Ip>,
}

/// An attachment with its pod and its policy.
#[derive(Debug)]
pub(crate) struct AttachmentState {
    pub(crate) attachment: Attachment,
    /// The last version of the pod. A deleted object stays here, because the pod may still run.
    pub(crate) pod: Option<Arc<Pod>>,
    /// The class of that version.
    pub(crate) pod_class: Option<PodClassId>,
    /// The group whose policy the endpoint has; `None` until the pod is known.
    pub(crate) group: Option<GroupId>,
}

impl AttachmentState {
    /// Returns true if the pod is of this namespace.
    fn is_in(&self, namespace: &str) -> bool {
        let pod = self.attachment.pod.as_ref();
        pod.is_some_and(|key| &*key.namespace == namespace)
    }

    /// Returns the pod's namespace and name; empty if there is no pod.
    pub(crate) fn name(&self) -> String {
        self.attachment
            .pod
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

/// All attachments, by endpoint and by pod.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    by_id: BTreeMap<EndpointId, AttachmentState>,
    by_pod: HashMap<ObjectKey, BTreeSet<EndpointId>>,
    /// Endpoints whose set of selecting policies may have changed.
    dirty: BTreeSet<EndpointId>,
}

impl Attachments {
    pub(crate) fn get(&self, id: EndpointId) -> Option<&AttachmentState> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: EndpointId) -> Option<&mut AttachmentState> {
        self.by_id.get_mut(&id)
    }

    /// Returns all attachments by endpoint.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EndpointId, &AttachmentState)> {
        self.by_id.iter().map(|(id, attached)| (*id, attached))
    }

    /// Returns true if the pod has an attachment.
    pub(crate) fn has_pod(&self, key: &ObjectKey) -> bool {
        self.by_pod.contains_key(key)
    }

    /// Returns the endpoints of a pod.
    pub(crate) fn of_pod(&self, key: &ObjectKey) -> Vec<EndpointId> {
        self.by_pod.get(key).into_iter().flatten().copied().collect()
    }

    /// Returns the addresses of a pod's attachments.
    pub(crate) fn addresses_of(&self, key: &ObjectKey) -> impl Iterator<Item = Ip> {
        let attachments = self.by_pod.get(key).into_iter().flatten();
        let attachments = attachments.filter_map(|id| self.by_id.get(id));
        attachments.flat_map(|a| a.attachment.addresses.iter().copied())
    }

    /// Returns the attached pods.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &ObjectKey> {
        self.by_pod.keys()
    }

    /// Adds an attachment.
    pub(crate) fn insert(&mut self, attached: AttachmentState) {
        let id = attached.attachment.id;
        if let Some(key) = &attached.attachment.pod {
            self.by_pod.entry(key.clone()).or_default().insert(id);
        }
        self.by_id.insert(id, attached);
        self.dirty.insert(id);
    }

    /// Removes an attachment.
    pub(crate) fn remove(&mut self, id: EndpointId) -> Option<AttachmentState> {
        let gone = self.by_id.remove(&id)?;
        if let Some(key) = &gone.attachment.pod
            && let Some(set) = self.by_pod.get_mut(key)
        {
            set.remove(&id);
            if set.is_empty() {
                self.by_pod.remove(key);
            }
        }
        Some(gone)
    }

    /// Marks an endpoint: the set of policies that select it may have changed.
    pub(crate) fn mark(&mut self, id: EndpointId) {
        self.dirty.insert(id);
    }

    /// Marks the endpoints of a namespace's pods.
    pub(crate) fn mark_namespace(&mut self, namespace: &str) {
        let within = self.by_id.iter().filter(|(_, a)| a.is_in(namespace));
        self.dirty.extend(within.map(|(id, _)| *id));
    }

    /// Marks the endpoints of the pods that `selected` returns true for.
    pub(crate) fn mark_pods(&mut self, selected: impl Fn(&Pod) -> bool) {
        let reached = self
            .by_id
            .iter()
            .filter(|(_, a)| a.pod.as_deref().is_some_and(&selected));
        self.dirty.extend(reached.map(|(id, _)| *id));
    }

    /// Returns the marked endpoints.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.dirty)
    }
}
