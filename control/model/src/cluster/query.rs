//! Look-ups in the cluster.

use std::net::IpAddr;
use std::sync::Arc;

use super::Cluster;
use super::index::ByKey;
use crate::changes::{Change, Delta};
use crate::cluster_policy::ClusterNetworkPolicy;
use crate::event::{Rejection, Subject};
use crate::key::{Kind, ObjectKey, ObjectRef};
use crate::labels::Labels;
use crate::node::{NAMESPACE_NAME_LABEL, Namespace, Node, ServiceCidr};
use crate::pod::Pod;
use crate::policy::NetworkPolicy;
use crate::service::Service;
use crate::slice::EndpointSlice;

impl Cluster {
    /// Returns true if all objects of every kind that existed at the start are known.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.iter().all(|synced| *synced)
    }

    /// Returns true if all objects of a kind that existed at the start are known.
    #[must_use]
    pub fn is_kind_synced(&self, kind: Kind) -> bool {
        self.synced.get(kind as usize).copied().unwrap_or(false)
    }

    /// Returns the number of objects of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Node => self.nodes.len(),
            Kind::ServiceCidr => self.service_cidrs.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Pod => self.pods.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::NetworkPolicy => self.policies.len(),
            Kind::ClusterNetworkPolicy => self.cluster_policies.len(),
        }
    }

    /// Returns the present rejections: first the reported ones, then the ones of objects that wait for a claim.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        let mut waiting: Vec<_> = self.claims.rejections().collect();
        waiting.sort_by(|a, b| (&a.subject, &a.origin).cmp(&(&b.subject, &b.origin)));
        self.reported.values().chain(waiting)
    }

    /// Returns the present rejections of one object.
    pub fn rejections_of(&self, object: &ObjectRef) -> impl Iterator<Item = &Rejection> {
        let subject = Subject::Object(object.clone());
        let waiting = self.claims.rejection_of(object);
        let first = crate::RejectionKey {
            subject: subject.clone(),
            origin: "".into(),
        };
        let reported = self.reported.range(first..).map(|(_, rejection)| rejection);
        reported
            .take_while(move |rejection| rejection.subject == subject)
            .chain(waiting)
    }

    /// Returns the number of rejections since the start, including those that ended.
    #[must_use]
    pub const fn rejected_total(&self) -> u64 {
        self.rejected
    }

    /// Returns all nodes, by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// Returns a node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&ObjectKey::cluster(name))
    }

    /// Returns the node that has an address. If several objects contain it (a node is gone, but its object still exists), a
    /// ready node is preferred, then the first by name.
    #[must_use]
    pub fn node_at(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        let nodes = self.index.nodes_at.of(ip.into());
        nodes.min_by_key(|node| !node.ready)
    }

    /// Returns all ranges of Service addresses, by name.
    pub fn service_cidrs(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceCidr>> {
        self.service_cidrs.values()
    }

    /// Returns all namespaces, by name.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// Returns a namespace by its name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(&ObjectKey::cluster(name))
    }

    /// Returns the labels of a namespace. An unknown namespace (its object comes later, or a folder has none) has the one
    /// label that every namespace has: its name.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Labels {
        match self.namespace(name) {
            Some(namespace) => namespace.labels.clone(),
            None => Labels::new([(NAMESPACE_NAME_LABEL, name)]).unwrap_or_default(),
        }
    }

    /// Returns all pods, by namespace and name; terminated ones too.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// Returns a pod by its key.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    /// Returns the pods of a namespace, by name.
    pub fn pods_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        self.pods.in_namespace(namespace)
    }

    /// Returns the pods of a node, by namespace and name.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let pods = self.index.pods_on.get(node).into_iter().flatten();
        pods.map(|ByKey(pod)| pod)
    }

    /// Returns the pod that has this address. It is neither terminated nor in the host's network. If several pods have it,
    /// the first one by [`Pod::cmp_as_holder`] counts. (On a pod's own node, the attachment decides instead.)
    #[must_use]
    pub fn pod_at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        let pods = self.index.pods_at.of(ip.into());
        pods.min_by(|a, b| a.cmp_as_holder(b))
    }

    /// Returns all Services, by namespace and name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Returns a Service by its key.
    #[must_use]
    pub fn service(&self, key: &ObjectKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Returns the Services that have an address. Several may share an external or a load balancer's address.
    pub fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.index.services_at.of(ip.into())
    }

    /// Returns all slices, by namespace and name.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &Arc<EndpointSlice>> {
        self.slices.values()
    }

    /// Returns a slice by its key.
    #[must_use]
    pub fn slice(&self, key: &ObjectKey) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(key)
    }

    /// Returns the slices of a Service, by name.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.index.slices_of.of(service.clone())
    }

    /// Returns all policies, by namespace and name.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<NetworkPolicy>> {
        self.policies.values()
    }

    /// Returns a policy by its key.
    #[must_use]
    pub fn policy(&self, key: &ObjectKey) -> Option<&Arc<NetworkPolicy>> {
        self.policies.get(key)
    }

    /// Returns the policies of a namespace, by name.
    pub fn policies_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<NetworkPolicy>> + use<'a> {
        self.policies.in_namespace(namespace)
    }

    /// Returns all policies of the cluster's administrators, by name.
    pub fn cluster_policies(&self) -> impl ExactSizeIterator<Item = &Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.values()
    }

    /// Returns a policy of the cluster's administrators by its name.
    #[must_use]
    pub fn cluster_policy(&self, name: &str) -> Option<&Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.get(&ObjectKey::cluster(name))
    }

    /// Returns the changes that lead to this state from an empty cluster, one after the other: a list of all would take 60 bytes for
    /// each object.
    pub fn all_changes(&self) -> impl Iterator<Item = Change> {
        fn added<T>(key: ObjectKey, object: &Arc<T>) -> Delta<T> {
            Delta {
                key,
                before: None,
                after: Some(Arc::clone(object)),
            }
        }
        let key = |name: &Arc<str>| ObjectKey::cluster(Arc::clone(name));
        let nodes = self.nodes().map(move |n| Change::Node(added(key(&n.name), n)));
        let service_cidrs = self.service_cidrs();
        let service_cidrs = service_cidrs.map(move |c| Change::ServiceCidr(added(key(&c.name), c)));
        let namespaces = self.namespaces();
        let namespaces = namespaces.map(move |n| Change::Namespace(added(key(&n.name), n)));
        let pods = self.pods().map(|p| Change::Pod(added(p.key.clone(), p)));
        let services = self.services().map(|s| Change::Service(added(s.key.clone(), s)));
        let slices = self.slices().map(|s| Change::EndpointSlice(added(s.key.clone(), s)));
        let policies = self.policies().map(|p| Change::NetworkPolicy(added(p.key.clone(), p)));
        let cluster_policies = self.cluster_policies();
        let cluster_policies = cluster_policies.map(move |p| Change::ClusterNetworkPolicy(added(key(&p.name), p)));
        nodes
            .chain(service_cidrs)
            .chain(namespaces)
            .chain(pods)
            .chain(services)
            .chain(slices)
            .chain(policies)
            .chain(cluster_policies)
    }
}
