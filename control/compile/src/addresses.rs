//! The address book: who claims each known address, and the identity and place that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{Labels, ObjectKey};
use heddle_tables::{AddressInfo, EndpointNo, IdentityNo, Place, Prefix};
use heddle_wire::Ip;

use crate::compiler::Compiler;
use crate::identities::{Class, PodClass};

/// Those who claim an address. An attachment counts before the node itself, that before a pod, that before other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) attachment: Option<EndpointNo>,
    /// It is this node's own.
    pub(crate) host: bool,
    pub(crate) pods: BTreeSet<ObjectKey>,
    pub(crate) nodes: BTreeSet<Arc<str>>,
}

impl Claims {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Default)]
struct Known {
    claims: Claims,
    identity: Option<IdentityNo>,
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
        let before = known.identity;
        if known.claims.is_empty() {
            self.addresses.known.remove(&addr);
            self.tables.remove_address(addr);
        } else {
            let (pod, node, place) = self.holder(addr, &known.claims);
            match place {
                Some(place) => {
                    let class = Class {
                        pod,
                        node,
                        cidr: self.cidrs.longest(addr),
                    };
                    let identity = self.identities.acquire(class, self.build_no);
                    self.tables.set_address(addr, AddressInfo { identity, place });
                    self.note_identity(addr, Some(identity));
                }
                None => {
                    self.tables.remove_address(addr);
                    self.note_identity(addr, None);
                }
            }
        }
        if let Some(before) = before {
            self.identities.release(before);
        }
    }

    fn note_identity(&mut self, addr: Ip, identity: Option<IdentityNo>) {
        if let Some(known) = self.addresses.known.get_mut(&addr) {
            known.identity = identity;
        }
    }

    /// The pod's and the node's part of the class, and the place; no place if no claim counts.
    fn holder(&self, addr: Ip, claims: &Claims) -> (Option<PodClass>, Option<Labels>, Option<Place>) {
        if let Some(no) = claims.attachment {
            let pod = self
                .attached
                .get(&no)
                .and_then(|a| a.pod.as_ref())
                .filter(|pod| !pod.is_terminated());
            return (pod.map(|pod| self.pod_class(pod)), None, Some(Place::Local(no)));
        }
        if claims.host {
            // `heddle0` has addresses that are not in the node's status.
            let own = self.own_node.as_ref().filter(|node| node.has_address(addr.to_std()));
            let labels = own.and_then(|node| self.relevance.node_labels(&node.labels));
            return (None, labels, Some(Place::Host));
        }
        // What the status of a pod with attachments says does not count.
        let pods = claims.pods.iter().filter(|key| !self.attachments_of.contains_key(*key));
        if let Some(pod) = pods.filter_map(|key| self.pods.get(key)).next() {
            let node = pod.node.as_ref().and_then(|name| self.nodes.number(name));
            return (
                Some(self.pod_class(pod)),
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

    fn pod_class(&self, pod: &heddle_model::Pod) -> PodClass {
        PodClass {
            namespace: Arc::clone(&pod.key.namespace),
            labels: self.relevance.labels(pod),
            ports: self.relevance.ports(pod),
        }
    }
}
