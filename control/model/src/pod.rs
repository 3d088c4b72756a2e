//! Pods.

use std::cmp::{Ordering, Reverse};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;
use crate::labels::Labels;
use crate::port::{PortNumber, Protocol};

/// `v1` `Pod`, as far as a dataplane is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `metadata.namespace` and `metadata.name`
    pub key: ObjectKey,
    /// `metadata.uid`; empty in a manifest that has none.
    pub uid: Arc<str>,
    /// The UID that the kubelet uses for a static pod, whose object in the API (the mirror pod) has another one: the
    /// annotation `kubernetes.io/config.hash` of a pod with `kubernetes.io/config.mirror`.
    pub static_uid: Option<Arc<str>>,
    /// `metadata.labels`
    pub labels: Labels,
    /// `spec.nodeName`; none before the pod is scheduled.
    pub node: Option<Arc<str>>,
    /// `status.podIPs`, or `status.podIP` where there is no list: at most one of each family.
    pub ips: Box<[IpAddr]>,
    /// `spec.hostNetwork`: the pod's addresses are its node's.
    pub host_network: bool,
    /// `status.phase`
    pub phase: PodPhase,
    /// `spec.containers[].ports[]`, and the ports of `spec.initContainers[]` that keep running (`restartPolicy: Always`). The pods
    /// of a Deployment share them.
    pub ports: Arc<[ContainerPort]>,
    /// `status.conditions[]`: `Ready` is `True`.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `metadata.creationTimestamp` as a number that grows with time (`20240131120000`); 0 if there is none.
    pub created: u64,
}

impl Pod {
    /// Removes what only the pod's own node needs: other nodes need its identity and its addresses. Its uid becomes one that no
    /// runtime has.
    pub(crate) fn strip(&mut self) {
        static ELSEWHERE: LazyLock<Arc<str>> = LazyLock::new(|| "on another node".into());
        self.uid = Arc::clone(&ELSEWHERE);
        self.static_uid = None;
        self.ready = false;
        if !self.is_terminated() {
            self.phase = PodPhase::Running;
        }
        // Policies find ports by name.
        if self.ports.iter().any(|port| port.name.is_none() || port.host.is_some()) {
            let named = self.ports.iter().filter(|port| port.name.is_some());
            self.ports = named
                .map(|port| ContainerPort {
                    host: None,
                    ..port.clone()
                })
                .collect();
        }
    }

    /// Returns true if the pod succeeded or failed: its containers will not run again, and its addresses are free.
    #[must_use]
    pub const fn is_terminated(&self) -> bool {
        matches!(self.phase, PodPhase::Succeeded | PodPhase::Failed)
    }

    /// Returns the addresses that only this pod has: none if it is terminated or uses its node's network.
    #[must_use]
    pub fn own_ips(&self) -> &[IpAddr] {
        if self.host_network || self.is_terminated() {
            &[]
        } else {
            &self.ips
        }
    }

    /// Returns true if a container runtime that calls a pod by this UID means this one. An object without a UID is any.
    #[must_use]
    pub fn is_uid(&self, uid: &str) -> bool {
        self.uid.is_empty() || &*self.uid == uid || self.static_uid.as_deref() == Some(uid)
    }

    /// Orders pods that have one address, the one that counts first: one that is not terminating, then the newest. (The name
    /// decides between equals.) An address passes to a new pod while the old one's object still exists.
    #[must_use]
    pub fn cmp_as_holder(&self, other: &Pod) -> Ordering {
        let rank = |pod: &Pod| (pod.terminating, Reverse(pod.created));
        rank(self).cmp(&rank(other)).then_with(|| self.key.cmp(&other.key))
    }

    /// Returns the container ports with this name and protocol.
    pub fn named_ports<'a>(&'a self, name: &'a str, protocol: Protocol) -> impl Iterator<Item = PortNumber> + 'a {
        let wanted = move |port: &&ContainerPort| port.protocol == protocol && port.name.as_deref() == Some(name);
        self.ports.iter().filter(wanted).map(|port| port.number)
    }
}

/// `status.phase`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PodPhase {
    /// Not all containers run yet; also the phase of a pod that has no status.
    #[default]
    Pending,
    /// At least one container runs or is being started.
    Running,
    /// All containers ended well and will not be restarted.
    Succeeded,
    /// All containers ended, one at least badly.
    Failed,
    /// The node is unreachable.
    Unknown,
}

/// One entry of `spec.containers[].ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerPort {
    /// `name`
    pub name: Option<Arc<str>>,
    /// `containerPort`
    pub number: PortNumber,
    /// `protocol`
    pub protocol: Protocol,
    /// `hostPort` with `hostIP`, unless the pod uses its node's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<PortOfHost>,
}

/// A port of the node that leads to a container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortOfHost {
    /// `hostPort`
    pub number: PortNumber,
    /// `hostIP`; none if it is empty.
    pub ip: Option<IpAddr>,
}
