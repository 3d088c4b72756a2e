//! Questions to the cluster.

use std::net::IpAddr;
use std::sync::Arc;

use super::claims::{Claim, pod_of};
use super::{Cluster, Table};
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
    /// Whether all objects that there were at the start are known, of every kind.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.iter().all(|synced| *synced)
    }

    /// Whether all objects of a kind that there were at the start are known.
    #[must_use]
    pub fn is_kind_synced(&self, kind: Kind) -> bool {
        self.synced.get(kind as usize).copied().unwrap_or(false)
    }

    /// How many objects of a kind there are.
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

    /// All that is refused at present, those that were reported first, then those that wait for what another has.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        let mut waiting: Vec<_> = self.claims.rejections().collect();
        waiting.sort_by(|a, b| (&a.subject, &a.origin).cmp(&(&b.subject, &b.origin)));
        self.reported.values().chain(waiting)
    }

    /// What is refused of one object at present.
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

    /// How often something was refused since the start, whether it still is or not.
    #[must_use]
    pub const fn rejected_total(&self) -> u64 {
        self.rejected
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&ObjectKey::cluster(name))
    }

    /// The node that has an address. Where several say so (one of them is gone, its object is not yet), a ready one,
    /// then the first by name.
    #[must_use]
    pub fn node_at(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        let nodes = self
            .index
            .nodes_at
            .get(&ip)?
            .iter()
            .filter_map(|key| self.nodes.get(key));
        nodes.min_by_key(|node| !node.ready)
    }

    /// All ranges of Service addresses, by name.
    pub fn service_cidrs(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceCidr>> {
        self.service_cidrs.values()
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// A namespace by its name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(&ObjectKey::cluster(name))
    }

    /// The labels of a namespace. One that is not known (its object comes later, or a folder has none) has the label
    /// that every namespace has, its name.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Labels {
        match self.namespace(name) {
            Some(namespace) => namespace.labels.clone(),
            None => Labels::new([(NAMESPACE_NAME_LABEL, name)]).unwrap_or_default(),
        }
    }

    /// All pods, by namespace and name; terminated ones too.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// A pod by its key.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    /// The pods of a namespace, by name.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        in_namespace(&self.pods, namespace)
    }

    /// The pods of a node, by namespace and name.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.index
            .pods_on
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
    }

    /// The pod whose own address this is: neither a terminated one nor one of the host's network.
    #[must_use]
    pub fn pod_at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        let holder = self.claims.holder(Claim::PodAddress(ip))?;
        self.pods.get(pod_of(holder)?)
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// A Service by its key.
    #[must_use]
    pub fn service(&self, key: &ObjectKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The Services that have an address among theirs: several may share an external or a load balancer's one.
    pub fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.index
            .services_at
            .get(&ip)
            .into_iter()
            .flatten()
            .filter_map(|key| self.services.get(key))
    }

    /// All slices, by namespace and name.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &Arc<EndpointSlice>> {
        self.slices.values()
    }

    /// A slice by its key.
    #[must_use]
    pub fn slice(&self, key: &ObjectKey) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(key)
    }

    /// The slices of a Service, by name.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.index
            .slices_of
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|key| self.slices.get(key))
    }

    /// All policies, by namespace and name.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<NetworkPolicy>> {
        self.policies.values()
    }

    /// A policy by its key.
    #[must_use]
    pub fn policy(&self, key: &ObjectKey) -> Option<&Arc<NetworkPolicy>> {
        self.policies.get(key)
    }

    /// The policies of a namespace, by name.
    pub fn policies_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<NetworkPolicy>> {
        in_namespace(&self.policies, namespace)
    }

    /// All policies of the cluster's administrators, by name.
    pub fn cluster_policies(&self) -> impl ExactSizeIterator<Item = &Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.values()
    }

    /// A policy of the cluster's administrators by its name.
    #[must_use]
    pub fn cluster_policy(&self, name: &str) -> Option<&Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.get(&ObjectKey::cluster(name))
    }
}

fn in_namespace<'a, T>(table: &'a Table<T>, namespace: &str) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
    let first = ObjectKey::new(namespace, "");
    let namespace = Arc::clone(&first.namespace);
    let ours = move |(key, _): &(&ObjectKey, _)| key.namespace == namespace;
    table.range(first..).take_while(ours).map(|(_, object)| object)
}
