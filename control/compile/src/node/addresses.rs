//! The address book: for each known address its claims, and the identity that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{ObjectKey, Pod};
use heddle_tables::{EndpointId, IdentityId, Prefix};
use heddle_wire::Ip;

use crate::policy::ids::PodClassId;

/// The claims on an address. An attachment comes before this node, this node before a pod, a pod before other nodes.
///
/// Nearly every address is one pod's, and the cluster's pods are many: all other claims are apart, so that they take no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressClaims {
    /// The first pod by namespace and name.
    first_pod: Option<ClaimingPod>,
    others: Option<Box<OtherClaims>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OtherClaims {
    attachment: Option<EndpointId>,
    /// This node has the address.
    host: bool,
    /// The pods after the first, by namespace and name.
    pods: Vec<ClaimingPod>,
    /// Other nodes, by name.
    nodes: Vec<Arc<str>>,
}

/// A pod whose status contains the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimingPod {
    pub(crate) pod: Arc<Pod>,
    pub(crate) class: PodClassId,
}

impl AddressClaims {
    pub(crate) const fn is_empty(&self) -> bool {
        self.first_pod.is_none() && self.others.is_none()
    }

    /// Returns the attachment that has the address.
    pub(crate) fn attachment(&self) -> Option<EndpointId> {
        self.others.as_ref()?.attachment
    }

    /// Returns true if this node has the address.
    pub(crate) fn is_host(&self) -> bool {
        self.others.as_ref().is_some_and(|others| others.host)
    }

    /// Returns the pods, by namespace and name.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &ClaimingPod> {
        let others = self.others.iter().flat_map(|others| &others.pods);
        self.first_pod.iter().chain(others)
    }

    /// Returns the names of other nodes, sorted.
    pub(crate) fn nodes(&self) -> &[Arc<str>] {
        self.others.as_ref().map_or(&[], |others| &others.nodes)
    }

    pub(crate) fn set_attachment(&mut self, attachment: Option<EndpointId>) {
        self.edit_others(|others| others.attachment = attachment);
    }

    pub(crate) fn set_host(&mut self, host: bool) {
        self.edit_others(|others| others.host = host);
    }

    /// Adds a pod's claim, or replaces the claim of its earlier version.
    pub(crate) fn add_pod(&mut self, pod: &Arc<Pod>, class: PodClassId) {
        self.remove_pod(&pod.key);
        let pod = Arc::clone(pod);
        let mut claim = ClaimingPod { pod, class };
        match &mut self.first_pod {
            None => self.first_pod = Some(claim),
            Some(first) => {
                if claim.pod.key < first.pod.key {
                    std::mem::swap(first, &mut claim);
                }
                self.edit_others(|others| {
                    let at = others.pods.partition_point(|other| other.pod.key < claim.pod.key);
                    others.pods.insert(at, claim);
                });
            }
        }
    }

    pub(crate) fn remove_pod(&mut self, key: &ObjectKey) {
        if self.first_pod.as_ref().is_some_and(|first| first.pod.key == *key) {
            self.first_pod = None;
            self.take_first_from_others();
        } else if self.others.is_some() {
            self.edit_others(|others| others.pods.retain(|other| other.pod.key != *key));
        }
    }

    /// Makes the first of the other pods the first one.
    fn take_first_from_others(&mut self) {
        if self.others.is_none() {
            return;
        }
        let mut first = None;
        self.edit_others(|others| {
            if !others.pods.is_empty() {
                first = Some(others.pods.remove(0));
            }
        });
        self.first_pod = first;
    }

    pub(crate) fn add_node(&mut self, name: &Arc<str>) {
        self.edit_others(|others| {
            if let Err(at) = others.nodes.binary_search(name) {
                others.nodes.insert(at, Arc::clone(name));
            }
        });
    }

    pub(crate) fn remove_node(&mut self, name: &Arc<str>) {
        self.edit_others(|others| others.nodes.retain(|other| other != name));
    }

    /// Changes the claims apart from the first pod's.
    fn edit_others(&mut self, edit: impl FnOnce(&mut OtherClaims)) {
        let mut others = self.others.take().unwrap_or_default();
        edit(&mut others);
        self.others = (*others != OtherClaims::default()).then_some(others);
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
        let of_nodes = |known: &KnownAddress| known.claims.is_host() || !known.claims.nodes().is_empty();
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

#[cfg(test)]
mod tests {
    use heddle_model::{Labels, PodPhase};
    use proptest::prelude::*;

    use super::*;

    fn pod(name: u8) -> Arc<Pod> {
        Arc::new(Pod {
            key: ObjectKey::new("a", format!("p{name}")),
            uid: "".into(),
            static_uid: None,
            labels: Labels::default(),
            node: None,
            ips: Box::default(),
            host_network: false,
            phase: PodPhase::Running,
            ports: Arc::default(),
            ready: true,
            terminating: false,
            created: 0,
        })
    }

    proptest! {
        /// The claims are the ones of plain sets, and without claims nothing is left.
        #[test]
        fn claims_are_sets(steps in prop::collection::vec((0u8..6, 0u8..4), 0..40)) {
            let mut claims = AddressClaims::default();
            let (mut pods, mut nodes) = (BTreeSet::new(), BTreeSet::new());
            let (mut attachment, mut host) = (None, false);
            for (what, which) in steps {
                let node: Arc<str> = format!("n{which}").into();
                match what {
                    0 => {
                        claims.add_pod(&pod(which), PodClassId(which.into()));
                        pods.insert(which);
                    }
                    1 => {
                        claims.remove_pod(&pod(which).key);
                        pods.remove(&which);
                    }
                    2 => {
                        claims.add_node(&node);
                        nodes.insert(node);
                    }
                    3 => {
                        claims.remove_node(&node);
                        nodes.remove(&node);
                    }
                    4 => {
                        attachment = (which > 1).then_some(EndpointId::HOST);
                        claims.set_attachment(attachment);
                    }
                    _ => {
                        host = which > 1;
                        claims.set_host(host);
                    }
                }
                let expected: Vec<(ObjectKey, PodClassId)> =
                    pods.iter().map(|name| (pod(*name).key.clone(), PodClassId((*name).into()))).collect();
                let found: Vec<_> = claims.pods().map(|claim| (claim.pod.key.clone(), claim.class)).collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(claims.nodes().to_vec(), nodes.iter().cloned().collect::<Vec<_>>());
                prop_assert_eq!((claims.attachment(), claims.is_host()), (attachment, host));
                let is_empty = pods.is_empty() && nodes.is_empty() && attachment.is_none() && !host;
                prop_assert_eq!(claims.is_empty(), is_empty);
            }
        }
    }
}
