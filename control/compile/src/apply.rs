//! Taking the model's changes in: notes what they reach, for the next build to work off.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_model::{
    Change, Changes, Cluster, ClusterNetworkPolicy, Delta, EndpointSlice, Labels, NetworkPolicy, Node, ObjectKey, Pod,
};
use heddle_wire::Ip;

use crate::compiler::{Compiler, KnownPod};
use crate::policy::pod_classes::{KindId, PodKind, Signature};
use crate::service::frontends::rivals;

impl Compiler {
    /// Takes in what changed. `cluster` is the state after these changes.
    pub fn apply_changes(&mut self, cluster: &Cluster, changes: &Changes) {
        let mut services = BTreeSet::new();
        let mut ranges = false;
        for change in &changes.objects {
            match change {
                Change::Node(delta) => {
                    self.apply_node(cluster, delta);
                    if delta.key.name == self.config.name && is_elsewhere(delta) {
                        services.extend(cluster.services().map(|service| service.key.clone()));
                    }
                }
                Change::ServiceCidr(_) => ranges = true,
                Change::Namespace(delta) => self.apply_namespace(cluster, &delta.key.name),
                Change::Pod(delta) => self.apply_pod(cluster, delta),
                Change::Service(delta) => {
                    services.insert(delta.key.clone());
                    services.extend(rivals(cluster, delta));
                }
                Change::EndpointSlice(delta) => services.extend(services_of(delta)),
                Change::NetworkPolicy(delta) => self.apply_policy(delta),
                Change::ClusterNetworkPolicy(delta) => self.apply_cluster_policy(delta),
            }
        }
        if ranges {
            self.settle_own_node(cluster);
        }
        for key in services {
            self.settle_service(cluster, &key);
        }
    }

    fn apply_namespace(&mut self, cluster: &Cluster, name: &Arc<str>) {
        let labels = cluster.namespace_labels(name);
        if self.namespaces.insert(Arc::clone(name), labels.clone()) != Some(labels) {
            self.dirty_namespaces.insert(Arc::clone(name));
            // Policies of administrators select pods by these labels too.
            let within = self.attached.iter().filter(|(_, a)| a.is_in(name));
            self.dirty_endpoints.extend(within.map(|(id, _)| *id));
        }
    }

    fn apply_pod(&mut self, cluster: &Cluster, delta: &Delta<Pod>) {
        let key = &delta.key;
        let before = delta.before.as_deref();
        if delta.after.is_some() && !self.namespaces.contains_key(&key.namespace) {
            self.apply_namespace(cluster, &key.namespace);
        }
        for ip in before.into_iter().flat_map(Pod::own_ips) {
            self.addresses.claim(Ip::from(*ip), |claims| claims.remove_pod(key));
        }
        let gone = match &delta.after {
            Some(pod) => {
                let kind = self.kind_of(pod);
                for ip in pod.own_ips() {
                    self.addresses.claim(Ip::from(*ip), |claims| claims.add_pod(pod, kind));
                }
                for id in self.attachments_of.get(key).into_iter().flatten().copied() {
                    if let Some(attached) = self.attached.get_mut(&id) {
                        attached.pod = Some(Arc::clone(pod));
                        let before = attached.kind.replace(self.kinds.reuse(kind));
                        before.into_iter().for_each(|kind| self.kinds.release(kind));
                        self.dirty_endpoints.insert(id);
                    }
                }
                let known = KnownPod {
                    pod: Arc::clone(pod),
                    kind,
                };
                self.pods.insert(key.clone(), known)
            }
            None => self.pods.remove(key),
        };
        if let Some(gone) = gone {
            self.kinds.release(gone.kind);
        }
        self.touch_pod(key);
    }

    /// The kind of a pod, used once more.
    fn kind_of(&mut self, pod: &Pod) -> KindId {
        let Self {
            kinds,
            selectors,
            relevance,
            namespaces,
            ..
        } = self;
        kinds.acquire(PodKind::of(pod), |kind| Signature {
            matched: selectors.of_kind(kind, namespaces),
            ports: relevance.ports(&kind.ports),
        })
    }

    fn apply_policy(&mut self, delta: &Delta<NetworkPolicy>) {
        self.policies.set(&delta.key, delta.after.clone());
        let selected = |pod: &Pod| {
            let by =
                |policy: &Option<Arc<NetworkPolicy>>| policy.as_ref().is_some_and(|p| p.selector.matches(&pod.labels));
            pod.key.namespace == delta.key.namespace && (by(&delta.before) || by(&delta.after))
        };
        let reached = self
            .attached
            .iter()
            .filter(|(_, a)| a.pod.as_deref().is_some_and(selected));
        self.dirty_endpoints.extend(reached.map(|(id, _)| *id));
    }

    fn apply_cluster_policy(&mut self, delta: &Delta<ClusterNetworkPolicy>) {
        self.policies.set_cluster(&delta.key.name, delta.after.clone());
        let none = Labels::default();
        let selected = |pod: &Pod| {
            let namespace = self.namespaces.get(&pod.key.namespace).unwrap_or(&none);
            [&delta.before, &delta.after]
                .into_iter()
                .flatten()
                .any(|policy| policy.subject.matches(namespace, &pod.labels))
        };
        let reached = self
            .attached
            .iter()
            .filter(|(_, a)| a.pod.as_deref().is_some_and(selected));
        self.dirty_endpoints.extend(reached.map(|(id, _)| *id));
    }
}

/// Whether what Services ask of this node is another: its zone and its addresses.
fn is_elsewhere(delta: &Delta<Node>) -> bool {
    let asked = |node: &Option<Arc<Node>>| {
        let node = node.as_deref()?;
        let zone = node.zone().map(str::to_owned);
        Some((zone, node.internal_ips.clone(), node.external_ips.clone()))
    };
    delta.after.is_some() && asked(&delta.before) != asked(&delta.after)
}

/// The Services that a slice belongs to and belonged to.
fn services_of(delta: &Delta<EndpointSlice>) -> impl Iterator<Item = ObjectKey> {
    [&delta.before, &delta.after]
        .into_iter()
        .flatten()
        .filter_map(|slice| slice.service.clone())
}
