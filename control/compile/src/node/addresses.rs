//! The address book: who claims each known address, and the identity and place that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{Labels, ObjectKey, Pod};
use heddle_tables::{AddressInfo, EndpointId, IdentityId, Place, Prefix};
use heddle_wire::Ip;
use smallvec::SmallVec;

use crate::compiler::Compiler;
use crate::policy::identities::Class;
use crate::policy::pod_classes::KindId;

/// Those who claim an address. An attachment counts before the node itself, that before a pod, that before other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) attachment: Option<EndpointId>,
    /// It is this node's own.
    pub(crate) host: bool,
    /// By namespace and name.
    pods: SmallVec<[ClaimingPod; 1]>,
    /// By name.
    nodes: SmallVec<[Arc<str>; 1]>,
}

/// A pod whose status names the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimingPod {
    pub(crate) pod: Arc<Pod>,
    pub(crate) kind: KindId,
}

impl Claims {
    fn is_empty(&self) -> bool {
        self.attachment.is_none() && !self.host && self.pods.is_empty() && self.nodes.is_empty()
    }

    /// A pod claims the address, in the place of its earlier version.
    pub(crate) fn add_pod(&mut self, pod: &Arc<Pod>, kind: KindId) {
        self.remove_pod(&pod.key);
        let at = self.pods.partition_point(|other| other.pod.key < pod.key);
        let pod = Arc::clone(pod);
        self.pods.insert(at, ClaimingPod { pod, kind });
    }

    pub(crate) fn remove_pod(&mut self, key: &ObjectKey) {
        self.pods.retain(|other| other.pod.key != *key);
    }

    pub(crate) fn add_node(&mut self, name: &Arc<str>) {
        if let Err(at) = self.nodes.binary_search(name) {
            self.nodes.insert(at, Arc::clone(name));
        }
    }

    pub(crate) fn remove_node(&mut self, name: &Arc<str>) {
        self.nodes.retain(|other| other != name);
    }
}

#[derive(Debug, Default)]
struct Known {
    claims: Claims,
    identity: Option<IdentityId>,
    /// The kind by which it has that identity.
    kind: Option<KindId>,
}

/// All known addresses.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    known: BTreeMap<Ip, Known>,
    /// Addresses whose claims, or the class of whose claimant, changed.
    dirty: BTreeSet<Ip>,
}

impl AddressBook {
    /// Changes the claims on an address.
    pub(crate) fn claim(&mut self, addr: Ip, edit: impl FnOnce(&mut Claims)) {
        edit(&mut self.known.entry(addr).or_default().claims);
        self.dirty.insert(addr);
    }

    /// The class of the claimant may have changed.
    pub(crate) fn touch(&mut self, addr: Ip) {
        if self.known.contains_key(&addr) {
            self.dirty.insert(addr);
        }
    }

    /// What policy can tell of nodes may have changed.
    pub(crate) fn touch_nodes(&mut self) {
        let of_nodes = |known: &Known| known.claims.host || !known.claims.nodes.is_empty();
        let addresses = self.known.iter().filter(|(_, known)| of_nodes(known));
        self.dirty.extend(addresses.map(|(addr, _)| *addr));
    }

    /// The addresses in a range may have another policy CIDR now.
    pub(crate) fn touch_range(&mut self, prefix: Prefix) {
        let inside = self.known.range(prefix.addr()..=prefix.last()).map(|(addr, _)| *addr);
        let inside = inside.filter(|addr| prefix.contains(*addr));
        self.dirty.extend(inside);
    }

    /// Takes the list of what changed.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<Ip> {
        std::mem::take(&mut self.dirty)
    }
}

impl Compiler {
    /// Works out anew who and where an address is.
    pub(crate) fn settle(&mut self, addr: Ip) {
        let Some(known) = self.addresses.known.get(&addr) else {
            return;
        };
        let before = (known.identity, known.kind);
        let mut after = (None, None);
        if known.claims.is_empty() {
            self.addresses.known.remove(&addr);
            self.tables.remove_address(addr);
        } else {
            let (kind, node, place) = self.holder(addr, &known.claims);
            match place {
                Some(place) => {
                    let part = kind.and_then(|kind| self.kinds.get(kind)).map(|kind| kind.part);
                    let class = Class {
                        part,
                        node,
                        cidr: self.cidrs.longest(addr),
                    };
                    let signature = part.and_then(|part| self.kinds.signature(part));
                    let identity = self
                        .identities
                        .acquire(class, signature.map(|s| &**s), self.build_number);
                    self.tables.set_address(addr, AddressInfo { identity, place });
                    after = (Some(identity), kind);
                }
                None => self.tables.remove_address(addr),
            }
            if before != after
                && let Some(known) = self.addresses.known.get_mut(&addr)
            {
                (known.identity, known.kind) = after;
            }
        }
        self.kinds.settle(addr, before.1, after.1);
        if let Some(before) = before.0 {
            self.identities.release(before);
        }
    }

    /// The pod's kind and the node's part of the class, and the place; no place if no claim counts.
    fn holder(&self, addr: Ip, claims: &Claims) -> (Option<KindId>, Option<Labels>, Option<Place>) {
        if let Some(id) = claims.attachment {
            let attached = self.attached.get(&id);
            let runs = attached
                .and_then(|a| a.pod.as_ref())
                .is_some_and(|pod| !pod.is_terminated());
            let kind = attached.and_then(|a| a.kind).filter(|_| runs);
            return (kind, None, Some(Place::Local(id)));
        }
        if claims.host {
            // `heddle0` has addresses that are not in the node's status.
            let own = self.own_node.as_ref().filter(|node| node.has_address(addr.to_std()));
            let labels = own.and_then(|node| self.relevance.node_labels(&node.labels));
            return (None, labels, Some(Place::Host));
        }
        // What the status of a pod with attachments says does not count.
        let unattached = |claim: &&ClaimingPod| !self.attachments_of.contains_key(&claim.pod.key);
        if let Some(claim) = claims.pods.iter().find(unattached) {
            let node = claim.pod.node.as_ref().and_then(|name| self.nodes.number(name));
            return (
                Some(claim.kind),
                None,
                Some(node.map_or(Place::Unreachable, Place::Node)),
            );
        }
        let numbered = |name: &Arc<str>| Some((self.nodes.number(name)?, self.nodes.labels(name)));
        match claims.nodes.iter().find_map(numbered) {
            Some((node, labels)) => (None, self.relevance.node_labels(labels), Some(Place::RemoteHost(node))),
            None => (None, None, None),
        }
    }
}
