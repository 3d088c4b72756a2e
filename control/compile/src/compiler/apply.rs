//! Records the model's changes and marks what they affect for the next rebuild. Tables that do not depend on policy,
//! such as Services and pod ranges, are written at once.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_model::{
    Change, Changes, Cluster, ClusterNetworkPolicy, Delta, EndpointSlice, Labels, NetworkPolicy, NodeFacts, ObjectKey,
    Pod,
};

use super::Compiler;
use crate::service::frontends::services_at_same_addresses;

impl Compiler {
    /// Records changes. `cluster` is the state after them, and `facts` are what follows from it for this node.
    pub fn apply_changes(&mut self, cluster: &Cluster, changes: &Changes, facts: &NodeFacts) {
        self.apply_each(cluster, &changes.objects, facts);
    }

    /// Records all objects of a cluster, for a compiler that has none yet.
    pub fn apply_all(&mut self, cluster: &Cluster, facts: &NodeFacts) {
        self.apply_each(cluster, cluster.all_changes(), facts);
    }

    fn apply_each(&mut self, cluster: &Cluster, changes: impl IntoIterator<Item: Borrow<Change>>, facts: &NodeFacts) {
        // Services are compiled at the end: each once, and with this node's addresses and zone after the changes.
        let mut services = BTreeSet::new();
        let mut service_cidrs = false;
        if self.node.set_own_node(facts, &self.config, &mut self.output) {
            services.extend(cluster.services().map(|service| service.key.clone()));
        }
        for change in changes {
            match change.borrow() {
                Change::Node(delta) => self.node.apply_node(cluster, delta, &self.config, &mut self.output),
                Change::ServiceCidr(_) => service_cidrs = true,
                Change::Namespace(delta) => self.apply_namespace(cluster, &delta.key.name),
                Change::Pod(delta) => {
                    // The labels of the namespace must be set before its first pod is classified.
                    if delta.after.is_some() && self.policy.namespace(&delta.key.namespace).is_none() {
                        self.apply_namespace(cluster, &delta.key.namespace);
                    }
                    self.node.apply_pod(delta, &mut self.policy);
                }
                Change::Service(delta) => {
                    services.insert(delta.key.clone());
                    services.extend(services_at_same_addresses(cluster, delta));
                }
                Change::EndpointSlice(delta) => services.extend(services_of(delta)),
                Change::NetworkPolicy(delta) => self.apply_policy(delta),
                Change::ClusterNetworkPolicy(delta) => self.apply_cluster_policy(delta),
            }
        }
        if service_cidrs {
            self.node.update_service_cidrs(cluster, &self.config, &mut self.output);
        }
        self.compile_services(cluster, &services);
    }

    fn apply_namespace(&mut self, cluster: &Cluster, name: &Arc<str>) {
        if self.policy.set_namespace(name, cluster.namespace_labels(name)) {
            // ClusterNetworkPolicies select pods by these labels too.
            self.node.attachments.mark_namespace(name);
        }
    }

    fn apply_policy(&mut self, delta: &Delta<NetworkPolicy>) {
        self.policy.policies.set(&delta.key, delta.after.clone());
        let selects = |policy: &Option<Arc<NetworkPolicy>>, pod: &Pod| {
            policy.as_ref().is_some_and(|p| p.selector.may_match(&pod.labels))
        };
        self.node.attachments.mark_pods(|pod| {
            pod.key.namespace == delta.key.namespace && (selects(&delta.before, pod) || selects(&delta.after, pod))
        });
    }

    fn apply_cluster_policy(&mut self, delta: &Delta<ClusterNetworkPolicy>) {
        self.policy.policies.set_cluster(&delta.key.name, delta.after.clone());
        let none = Labels::default();
        let policy = &self.policy;
        self.node.attachments.mark_pods(|pod| {
            let namespace = policy.namespace(&pod.key.namespace).unwrap_or(&none);
            [&delta.before, &delta.after]
                .into_iter()
                .flatten()
                .any(|policy| policy.subject.may_match(namespace, &pod.labels))
        });
    }
}

/// Returns the Services that a slice belongs to and belonged to.
fn services_of(delta: &Delta<EndpointSlice>) -> impl Iterator<Item = ObjectKey> {
    [&delta.before, &delta.after]
        .into_iter()
        .flatten()
        .filter_map(|slice| slice.service.clone())
}
