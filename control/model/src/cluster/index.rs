//! Cross references between objects, updated with every change.
//!
//! The indexes hold the objects themselves: a pointer takes a quarter of a key's memory. So every change of an object exchanges
//! the version in each index.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::table::Keyed;
use crate::changes::{Change, Delta};
use crate::key::ObjectKey;
use crate::node::Node;
use crate::pod::Pod;
use crate::service::Service;
use crate::slice::EndpointSlice;

/// Objects by a name or an address. Nearly all names have one object, so one tree of pairs takes less memory than a set for each
/// name.
#[derive(Debug)]
pub(super) struct Sets<K, T: Keyed>(BTreeSet<(K, Option<ByKey<T>>)>);

impl<K: Ord, T: Keyed> Default for Sets<K, T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Clone + Ord, T: Keyed> Sets<K, T> {
    /// Returns the objects of a name, by namespace and name.
    pub(super) fn of(&self, name: K) -> impl Iterator<Item = &Arc<T>> {
        // No object comes before all objects.
        let first = (name, None);
        let all = self.0.range(&first..);
        let named = all.take_while(move |(at, _)| *at == first.0);
        named
            .filter_map(|(_, object)| object.as_ref())
            .map(|ByKey(object)| object)
    }

    /// Moves an object from the names of its version before to the ones of its version after.
    fn replace(&mut self, delta: &Delta<T>, names: impl Fn(&T) -> BTreeSet<K>) {
        let after = delta.after.as_deref().map(&names).unwrap_or_default();
        if let Some(object) = &delta.before {
            for name in names(object).difference(&after) {
                self.0.remove(&(name.clone(), Some(ByKey(Arc::clone(object)))));
            }
        }
        if let Some(object) = &delta.after {
            for name in after {
                self.0.replace((name, Some(ByKey(Arc::clone(object)))));
            }
        }
    }
}

/// An object that is ordered by its namespace and name.
#[derive(Debug)]
pub(super) struct ByKey<T>(pub(super) Arc<T>);

impl<T: Keyed> Ord for ByKey<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.parts().cmp(&other.0.parts())
    }
}

impl<T: Keyed> PartialOrd for ByKey<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Keyed> PartialEq for ByKey<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.parts() == other.0.parts()
    }
}

impl<T: Keyed> Eq for ByKey<T> {}

/// An address of either family in 16 bytes: IPv4 as a mapped address (RFC 4291, section 2.5.5.2), as in the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(Ipv6Addr);

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => Self(ip),
        }
    }
}

/// The objects behind a name or an address.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Pods by `spec.nodeName`. A node may have many.
    pub(super) pods_on: HashMap<Arc<str>, BTreeSet<ByKey<Pod>>>,
    /// Pods by each of their own addresses. Several may have one.
    pub(super) pods_at: Sets<Address, Pod>,
    /// Nodes by each of their addresses.
    pub(super) nodes_at: Sets<Address, Node>,
    /// Services by each of their addresses.
    pub(super) services_at: Sets<Address, Service>,
    /// Slices by their Service.
    pub(super) slices_of: Sets<ObjectKey, EndpointSlice>,
}

impl Index {
    /// Updates the index after a change.
    pub(super) fn update(&mut self, change: &Change) {
        match change {
            Change::Pod(delta) => {
                self.move_pod(delta);
                self.pods_at
                    .replace(delta, |pod| pod.own_ips().iter().copied().map(Address::from).collect());
            }
            Change::Node(delta) => self.nodes_at.replace(delta, |node| {
                let addresses = node.internal_ips.iter().chain(&node.external_ips);
                addresses.copied().map(Address::from).collect()
            }),
            Change::Service(delta) => self
                .services_at
                .replace(delta, |service| service.addresses().map(Address::from).collect()),
            Change::EndpointSlice(delta) => self
                .slices_of
                .replace(delta, |slice| slice.service.clone().into_iter().collect()),
            Change::ServiceCidr(_)
            | Change::Namespace(_)
            | Change::NetworkPolicy(_)
            | Change::ClusterNetworkPolicy(_) => {}
        }
    }

    /// Moves a pod to another node, or exchanges its version on its node.
    fn move_pod(&mut self, delta: &Delta<Pod>) {
        let after = delta.after.as_ref().and_then(|pod| Some((pod, pod.node.as_ref()?)));
        if let Some(pod) = &delta.before
            && let Some(name) = &pod.node
            && after.is_none_or(|(_, other)| other != name)
            && let Some(pods) = self.pods_on.get_mut(name)
        {
            pods.remove(&ByKey(Arc::clone(pod)));
            if pods.is_empty() {
                self.pods_on.remove(name);
            }
        }
        if let Some((pod, name)) = after {
            let pods = match self.pods_on.get_mut(name) {
                Some(pods) => pods,
                None => self.pods_on.entry(Arc::clone(name)).or_default(),
            };
            pods.replace(ByKey(Arc::clone(pod)));
        }
    }
}
