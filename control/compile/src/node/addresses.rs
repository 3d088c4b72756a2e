//! The address book: for each known address its claims, and the identity that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{ObjectKey, Pod};
use heddle_tables::{EndpointId, IdentityId, Prefix};
use heddle_wire::Ip;
use smallvec::SmallVec;

use crate::policy::ids::PodClassId;

/// The claims on an address. An attachment comes before this node, this node before a pod, a pod before other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressClaims {
    pub(crate) attachment: Option<EndpointId>,
    /// This node has the address.
    pub(crate) host: bool,
    /// By namespace and name.
    pub(crate) pods: SmallVec<[ClaimingPod; 1]>,
    /// By name. Few addresses have any, so it takes little room when it is empty.
    pub(crate) nodes: Box<[Arc<str>]>,
}

/// A pod whose status contains the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimingPod {
    pub(crate) pod: Arc<Pod>,
    pub(crate) class: PodClassId,
}

impl AddressClaims {
    pub(crate) fn is_empty(&self) -> bool {
        self.attachment.is_none() && !self.host && self.pods.is_empty() && self.nodes.is_empty()
    }

    /// Adds a pod's claim, or replaces the claim of its earlier version.
    pub(crate) fn add_pod(&mut self, pod: &Arc<Pod>, class: PodClassId) {
        self.remove_pod(&pod.key);
        let at = self.pods.partition_point(|other| other.pod.key < pod.key);
        let pod = Arc::clone(pod);
        self.pods.insert(at, ClaimingPod { pod, class });
    }

    pub(crate) fn remove_pod(&mut self, key: &ObjectKey) {
        self.pods.retain(|other| other.pod.key != *key);
    }

    pub(crate) fn add_node(&mut self, name: &Arc<str>) {
        if let Err(at) = self.nodes.binary_search(name) {
            let mut nodes = std::mem::take(&mut self.nodes).into_vec();
            nodes.insert(at, Arc::clone(name));
            self.nodes = nodes.into();
        }
    }

    pub(crate) fn remove_node(&mut self, name: &Arc<str>) {
        if let Ok(at) = self.nodes.binary_search(name) {
            let mut nodes = std::mem::take(&mut self.nodes).into_vec();
            nodes.remove(at);
            self.nodes = nodes.into();
        }
    }
}

/// A known address.
#[derive(Debug, Default)]
pub(crate) struct KnownAddress {
    pub(crate) claims: AddressClaims,
    pub(crate) identity: Option<IdentityId>,
    /// The pod class from which the identity follows.
    pub(crate) pod_class: Option<PodClassId>,
}

/// All known addresses.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    known: BTreeMap<Ip, KnownAddress>,
    /// Addresses that may need another identity or place: their claims changed, or a property of a claimant that policy
    /// can see.
    dirty: BTreeSet<Ip>,
}

impl AddressBook {
    pub(crate) fn get(&self, addr: Ip) -> Option<&KnownAddress> {
        self.known.get(&addr)
    }

    /// Removes an address without claims.
    pub(crate) fn remove(&mut self, addr: Ip) {
        self.known.remove(&addr);
    }

    /// Sets the identity of an address, and the pod class from which it follows.
    pub(crate) fn set_identity(&mut self, addr: Ip, identity: Option<IdentityId>, pod_class: Option<PodClassId>) {
        if let Some(known) = self.known.get_mut(&addr) {
            (known.identity, known.pod_class) = (identity, pod_class);
        }
    }

    /// Changes the claims on an address, and marks it.
    pub(crate) fn edit_claims(&mut self, addr: Ip, edit: impl FnOnce(&mut AddressClaims)) {
        edit(&mut self.known.entry(addr).or_default().claims);
        self.dirty.insert(addr);
    }

    /// Marks an address, because a claimant changed.
    pub(crate) fn mark(&mut self, addr: Ip) {
        if self.known.contains_key(&addr) {
            self.dirty.insert(addr);
        }
    }

    /// Marks the addresses of nodes, because policies may select nodes by other labels now.
    pub(crate) fn mark_nodes(&mut self) {
        let of_nodes = |known: &KnownAddress| known.claims.host || !known.claims.nodes.is_empty();
        let addresses = self.known.iter().filter(|(_, known)| of_nodes(known));
        self.dirty.extend(addresses.map(|(addr, _)| *addr));
    }

    /// Marks the addresses in a prefix, because another policy CIDR may be the longest that covers them now.
    pub(crate) fn mark_range(&mut self, prefix: Prefix) {
        let inside = self.known.range(prefix.addr()..=prefix.last()).map(|(addr, _)| *addr);
        let inside = inside.filter(|addr| prefix.contains(*addr));
        self.dirty.extend(inside);
    }

    /// Returns the marked addresses.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<Ip> {
        std::mem::take(&mut self.dirty)
    }
}
