//! The state of all objects, and the changes that each event makes in it.

mod claims;
mod index;
mod kept;
mod query;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::changes::{Change, Changes};
use crate::cluster_policy::ClusterNetworkPolicy;
use crate::event::{Cause, Event, Object, Rejection, RejectionKey, Subject};
use crate::intern::Interner;
use crate::kept::KeptVersion;
use crate::key::{Kind, ObjectKey, ObjectRef};
use crate::node::{Namespace, Node, ServiceCidr};
use crate::pod::Pod;
use crate::policy::NetworkPolicy;
use crate::service::Service;
use crate::slice::EndpointSlice;

use claims::{Claims, Offer};
use index::Index;
use table::Table;

/// The state of all objects.
///
/// The rules, in the order in which they are applied:
/// - A deleted object is gone, with its rejections.
/// - A refused version leaves the last good one in place. Without a good one the object is absent, except that a
///   [`NetworkPolicy`] or a [`ClusterNetworkPolicy`] denies the traffic of the pods that it selects, as far as its
///   selector could be read ([`Rejection::closes`]). A refused document or file that may have policies does the same.
/// - At the start, the version that an earlier process kept counts as the last good one of a refused object ([`crate::Kept`]).
/// - A version that claims something another object has (a cluster address, a node port) waits until it is free, with a
///   rejection that names both objects.
/// - Several pods may have one address: [`Cluster::pod_at`] chooses. A terminated pod frees its addresses, and pods in the
///   host's network share the addresses of their node.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Table<Node>,
    service_cidrs: Table<ServiceCidr>,
    namespaces: Table<Namespace>,
    pods: Table<Pod>,
    services: Table<Service>,
    slices: Table<EndpointSlice>,
    policies: Table<NetworkPolicy>,
    cluster_policies: Table<ClusterNetworkPolicy>,
    index: Index,
    claims: Claims,
    interner: Interner,
    reported: BTreeMap<RejectionKey, Rejection>,
    rejected: u64,
    synced: [bool; Kind::ALL.len()],
    /// The last good versions that an earlier process kept and the source has not reported on yet.
    earlier: BTreeMap<ObjectRef, KeptVersion>,
    /// The node whose agent uses the cluster: of pods of other nodes only identity and addresses are kept.
    node: Option<Arc<str>>,
}

impl Cluster {
    /// Returns an empty cluster that has not synced.
    #[must_use]
    pub fn new() -> Cluster {
        Cluster::default()
    }

    /// Keeps of pods of other nodes only what this node needs: identity and addresses. What else changes of them is no change.
    #[must_use]
    pub fn for_node(mut self, node: &str) -> Cluster {
        self.node = Some(node.into());
        self
    }

    /// Applies an event, and returns the changes that it made.
    pub fn apply(&mut self, event: Event) -> Changes {
        let mut changes = Changes::default();
        match event {
            Event::Upsert { origin, object } => self.upsert(&origin, object, &mut changes),
            Event::Delete(object) => self.delete(&object, &mut changes),
            Event::Rejected(rejection) => self.reject(rejection, &mut changes),
            Event::Restored(key) => self.restore(&key, &mut changes),
            Event::Synced(kind) => {
                let before = self.is_synced();
                if let Some(synced) = self.synced.get_mut(kind as usize) {
                    *synced = true;
                }
                self.forget_kept(kind);
                changes.synced = !before && self.is_synced();
            }
        }
        changes
    }

    fn upsert(&mut self, origin: &Arc<str>, mut object: Object, changes: &mut Changes) {
        self.return_kept_before(&object, changes);
        self.strip(&mut object);
        self.interner.object(&mut object);
        let subject = object.object_ref();
        let key = RejectionKey {
            subject: Subject::Object(subject.clone()),
            origin: Arc::clone(origin),
        };
        if self
            .reported
            .get(&key)
            .is_some_and(|rejection| !matches!(rejection.cause, Cause::Duplicate | Cause::Ignored))
        {
            self.reported.remove(&key);
            changes.rejections = true;
        }
        let was_waiting = self.claims.rejection_of(&subject).is_some();
        match self.claims.offer(origin, object) {
            Offer::Taken(objects) => {
                changes.rejections |= was_waiting || objects.len() > 1;
                self.store(objects, changes);
            }
            Offer::Waits(news) => {
                self.rejected += u64::from(news);
                changes.rejections |= news;
            }
        }
    }

    /// Removes from a pod of another node what this node does not need.
    fn strip(&self, object: &mut Object) {
        if let (Object::Pod(pod), Some(node)) = (object, &self.node)
            && pod.node.as_ref().is_some_and(|of| of != node)
        {
            Arc::make_mut(pod).strip();
        }
    }

    fn delete(&mut self, object: &ObjectRef, changes: &mut Changes) {
        self.earlier.remove(object);
        changes.objects.extend(self.remove(object.kind, &object.key));
        let (objects, was_waiting) = self.claims.remove(object);
        changes.rejections |= was_waiting || !objects.is_empty();
        self.store(objects, changes);
        let first = RejectionKey {
            subject: Subject::Object(object.clone()),
            origin: "".into(),
        };
        let about = |key: &&RejectionKey| key.subject == first.subject;
        let keys: Vec<RejectionKey> = self
            .reported
            .range(&first..)
            .map(|(key, _)| key)
            .take_while(about)
            .cloned()
            .collect();
        for key in keys {
            self.reported.remove(&key);
            changes.rejections = true;
        }
    }

    /// Removes a rejection, and the closing policy that lasts as long as it.
    fn restore(&mut self, key: &RejectionKey, changes: &mut Changes) {
        let Some(rejection) = self.reported.remove(key) else {
            return;
        };
        changes.rejections = true;
        if let (false, Some(closed)) = (key.subject.is_object(), rejection.closes) {
            changes.objects.extend(self.remove(closed.kind(), &closed.key()));
        }
    }

    fn reject(&mut self, rejection: Rejection, changes: &mut Changes) {
        let key = rejection.key();
        if self
            .reported
            .get(&key)
            .is_some_and(|known| known.closes != rejection.closes)
            && !key.subject.is_object()
        {
            self.restore(&key, changes);
        }
        self.return_kept(&rejection, changes);
        if let Some(closed) = rejection.closes.as_ref().and_then(|object| self.closed(object)) {
            self.store(vec![(Arc::clone(&rejection.origin), closed)], changes);
        }
        if self.reported.get(&key) != Some(&rejection) {
            self.reported.insert(key, rejection);
            self.rejected += 1;
            changes.rejections = true;
        }
    }

    /// Puts a closing policy in the place of a refused one, unless a good version is known.
    fn closed(&self, object: &Object) -> Option<Object> {
        match object {
            Object::NetworkPolicy(policy) => {
                let mut closed = NetworkPolicy::clone(policy);
                closed.refused = true;
                let known = self.policies.get(&policy.key);
                known.is_none_or(|known| known.refused).then(|| closed.into())
            }
            Object::ClusterNetworkPolicy(policy) => {
                let mut closed = ClusterNetworkPolicy::clone(policy);
                closed.refused = true;
                let known = self.cluster_policy(&policy.name);
                known.is_none_or(|known| known.refused).then(|| closed.into())
            }
            _ => None,
        }
    }

    fn store(&mut self, objects: Vec<(Arc<str>, Object)>, changes: &mut Changes) {
        for (origin, object) in objects {
            changes.objects.extend(self.put(&origin, object));
        }
    }

    fn put(&mut self, origin: &Arc<str>, object: Object) -> Option<Change> {
        let key = object.key();
        let change = match object {
            Object::Node(node) => Change::Node(self.nodes.set(&key, node, origin)?),
            Object::ServiceCidr(cidr) => Change::ServiceCidr(self.service_cidrs.set(&key, cidr, origin)?),
            Object::Namespace(namespace) => Change::Namespace(self.namespaces.set(&key, namespace, origin)?),
            Object::Pod(pod) => Change::Pod(self.pods.set(&key, pod, origin)?),
            Object::Service(service) => Change::Service(self.services.set(&key, service, origin)?),
            Object::EndpointSlice(slice) => Change::EndpointSlice(self.slices.set(&key, slice, origin)?),
            Object::NetworkPolicy(policy) => Change::NetworkPolicy(self.policies.set(&key, policy, origin)?),
            Object::ClusterNetworkPolicy(policy) => {
                Change::ClusterNetworkPolicy(self.cluster_policies.set(&key, policy, origin)?)
            }
        };
        self.index.update(&change);
        Some(change)
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> Option<Change> {
        let change = match kind {
            Kind::Node => Change::Node(self.nodes.remove(key)?),
            Kind::ServiceCidr => Change::ServiceCidr(self.service_cidrs.remove(key)?),
            Kind::Namespace => Change::Namespace(self.namespaces.remove(key)?),
            Kind::Pod => Change::Pod(self.pods.remove(key)?),
            Kind::Service => Change::Service(self.services.remove(key)?),
            Kind::EndpointSlice => Change::EndpointSlice(self.slices.remove(key)?),
            Kind::NetworkPolicy => Change::NetworkPolicy(self.policies.remove(key)?),
            Kind::ClusterNetworkPolicy => Change::ClusterNetworkPolicy(self.cluster_policies.remove(key)?),
        };
        self.index.update(&change);
        Some(change)
    }
}
