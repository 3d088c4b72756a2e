//! Cross references between objects, updated with every change.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use crate::changes::{Change, Delta};
use crate::key::ObjectKey;
use crate::node::Node;
use crate::pod::Pod;
use crate::service::Service;
use crate::slice::EndpointSlice;

/// Sets of keys by name. Nearly all have one key, so one tree of pairs takes less memory than a set for each name.
#[derive(Debug)]
pub(super) struct Sets<K>(BTreeSet<(K, ObjectKey)>);

impl<K> Default for Sets<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Clone + Ord> Sets<K> {
    /// Returns the keys of a name, sorted.
    pub(super) fn of(&self, name: K) -> impl Iterator<Item = &ObjectKey> {
        let first = (name, ObjectKey::new(Arc::clone(&EMPTY), Arc::clone(&EMPTY)));
        let all = self.0.range(first.clone()..);
        all.take_while(move |(at, _)| *at == first.0).map(|(_, key)| key)
    }
}

/// The least text, of the least key.
static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

/// The objects behind a name or an address.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Pods by `spec.nodeName`. A node may have many.
    pub(super) pods_on: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    /// Pods by each of their own addresses. Several may have one.
    pub(super) pods_at: Sets<IpAddr>,
    /// Nodes by each of their addresses.
    pub(super) nodes_at: Sets<IpAddr>,
    /// Services by each of their addresses.
    pub(super) services_at: Sets<IpAddr>,
    /// Slices by their Service.
    pub(super) slices_of: Sets<ObjectKey>,
}

impl Index {
    /// Updates the index after a change.
    pub(super) fn update(&mut self, change: &Change) {
        match change {
            Change::Pod(delta) => {
                self.move_pod(delta);
                let addresses = |pod: &Pod| pod.own_ips().iter().copied().collect();
                replace(&mut self.pods_at, delta, addresses);
            }
            Change::Node(delta) => {
                let addresses = |node: &Node| node.internal_ips.iter().chain(&node.external_ips).copied().collect();
                replace(&mut self.nodes_at, delta, addresses);
            }
            Change::Service(delta) => {
                replace(&mut self.services_at, delta, |service: &Service| {
                    service.addresses().collect()
                });
            }
            Change::EndpointSlice(delta) => {
                let service = |slice: &EndpointSlice| slice.service.clone().into_iter().collect();
                replace(&mut self.slices_of, delta, service);
            }
            Change::ServiceCidr(_)
            | Change::Namespace(_)
            | Change::NetworkPolicy(_)
            | Change::ClusterNetworkPolicy(_) => {}
        }
    }
}

impl Index {
    /// Moves a pod to another node.
    fn move_pod(&mut self, delta: &Delta<Pod>) {
        let node = |pod: &Option<Arc<Pod>>| pod.as_ref().and_then(|pod| pod.node.clone());
        let (before, after) = (node(&delta.before), node(&delta.after));
        if before == after {
            return;
        }
        if let Some(name) = before
            && let Some(pods) = self.pods_on.get_mut(&name)
        {
            pods.remove(&delta.key);
            if pods.is_empty() {
                self.pods_on.remove(&name);
            }
        }
        if let Some(name) = after {
            self.pods_on.entry(name).or_default().insert(delta.key.clone());
        }
    }
}

fn replace<T, K: Clone + Ord>(sets: &mut Sets<K>, delta: &Delta<T>, names: impl Fn(&T) -> BTreeSet<K>) {
    let before = delta.before.as_deref().map(&names).unwrap_or_default();
    let after = delta.after.as_deref().map(&names).unwrap_or_default();
    for name in before.difference(&after) {
        sets.0.remove(&(name.clone(), delta.key.clone()));
    }
    for name in after {
        if !before.contains(&name) {
            sets.0.insert((name, delta.key.clone()));
        }
    }
}
