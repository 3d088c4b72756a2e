//! Attachments: the local endpoints that the agent has made.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_ids::PortId;
use heddle_model::{ObjectKey, Pod};
use heddle_tables::{EndpointId, WorkerId};
use heddle_wire::{Ip, MacAddr};

use crate::policy::groups::GroupId;
use crate::policy::pod_classes::KindId;

/// One attachment of this node, as the agent made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its durable number, a pod's.
    pub id: EndpointId,
    /// The pod that it belongs to. `None`: it was made without Kubernetes, and no policy selects it.
    pub pod: Option<ObjectKey>,
    /// Its addresses. For policy and forwarding these count, whatever `status.podIPs` says.
    pub addresses: ArrayVec<Ip, 4>,
    /// The MAC of the pod's end.
    pub mac: MacAddr,
    /// Its port.
    pub port: PortId,
    /// The worker that owns the port.
    pub worker: WorkerId,
    /// The MTU of its veth; 0: the node's usual one.
    pub mtu: u16,
}

/// A local pod whose `status.podIPs` are not the addresses of its attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressDifference {
    /// The pod.
    pub pod: ObjectKey,
    /// What its attachments have; this counts.
    pub attached: BTreeSet<Ip>,
    /// What its status says.
    pub status: BTreeSet<Ip>,
}

/// An attachment with what is known of its pod.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) attachment: Attachment,
    /// The last version of the pod; kept when the object is deleted, since the pod may still run.
    pub(crate) pod: Option<Arc<Pod>>,
    /// The kind of that version.
    pub(crate) kind: Option<KindId>,
    /// Where its policy is; `None` until the pod is known.
    pub(crate) group: Option<GroupId>,
}

impl Attached {
    /// Whether its pod is of a namespace.
    pub(crate) fn is_in(&self, namespace: &str) -> bool {
        let pod = self.attachment.pod.as_ref();
        pod.is_some_and(|key| &*key.namespace == namespace)
    }

    /// The name for people: the pod's, or nothing.
    pub(crate) fn name(&self) -> String {
        self.attachment
            .pod
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}
