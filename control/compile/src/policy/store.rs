//! All policies of the cluster, and the active ones, which are compiled while some endpoint of this node uses them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use heddle_model::{ClusterNetworkPolicy, Labels, NetworkPolicy, ObjectKey, Pod};

use crate::policy::activate::{Context, activate, activate_cluster, deactivate, port_names};
use crate::policy::ids::PolicyVersion;
use crate::policy::rule::{ActivePolicy, EvaluationTier};

/// The NetworkPolicies of a namespace by name, each with its version.
type ByName = BTreeMap<Arc<str>, (u64, Arc<NetworkPolicy>)>;

/// All policies.
///
/// Each change of a policy gives it a new version, so that old and new rules never share an [`ActivePolicy`].
#[derive(Debug, Default)]
pub(crate) struct PolicyStore {
    by_namespace: HashMap<Arc<str>, ByName>,
    cluster: BTreeMap<Arc<str>, (u64, Arc<ClusterNetworkPolicy>)>,
    last_version: u64,
    /// The active policies with their reference counts.
    active: HashMap<PolicyVersion, (Arc<ActivePolicy>, u32)>,
}

impl PolicyStore {
    /// Adds, replaces or removes a NetworkPolicy.
    pub(crate) fn set(&mut self, key: &ObjectKey, policy: Option<Arc<NetworkPolicy>>) {
        self.last_version += 1;
        let names = self.by_namespace.entry(Arc::clone(&key.namespace)).or_default();
        match policy {
            Some(policy) => {
                names.insert(Arc::clone(&key.name), (self.last_version, policy));
            }
            None => {
                names.remove(&key.name);
                if names.is_empty() {
                    self.by_namespace.remove(&key.namespace);
                }
            }
        }
    }

    /// Adds, replaces or removes a ClusterNetworkPolicy.
    pub(crate) fn set_cluster(&mut self, name: &Arc<str>, policy: Option<Arc<ClusterNetworkPolicy>>) {
        self.last_version += 1;
        match policy {
            Some(policy) => {
                self.cluster.insert(Arc::clone(name), (self.last_version, policy));
            }
            None => {
                self.cluster.remove(name);
            }
        }
    }

    /// Returns the policies that select a pod, in evaluation order: the Admin tier by priority and name, NetworkPolicies
    /// by name, the Baseline tier by priority and name.
    pub(crate) fn selecting(&self, pod: &Pod, namespace: Option<&Labels>) -> Vec<PolicyVersion> {
        let names = self.by_namespace.get(&pod.key.namespace).into_iter().flatten();
        // A NetworkPolicy isolates, so it counts if it may select the pod.
        let selecting = names.filter(|(_, (_, policy))| policy.selector.may_match(&pod.labels));
        let mut all: Vec<(EvaluationTier, u16, PolicyVersion)> = selecting
            .map(|(_, (version, policy))| (EvaluationTier::Namespaced, 0, (policy.key.clone(), *version, false)))
            .collect();
        let none = Labels::default();
        let labels = namespace.unwrap_or(&none);
        let cluster = self.cluster.values();
        let selecting = cluster.filter(|(_, policy)| policy.subject.may_match(labels, &pod.labels));
        all.extend(selecting.map(|(version, policy)| {
            let denials_only = !policy.subject.matches(labels, &pod.labels);
            let id = (ObjectKey::cluster(Arc::clone(&policy.name)), *version, denials_only);
            (policy.tier.into(), policy.priority, id)
        }));
        all.sort();
        all.into_iter().map(|(.., id)| id).collect()
    }

    /// Returns the port names in the ingress rules of these policies: they depend on the selected pod's named ports.
    pub(crate) fn ingress_port_names(&self, ids: &[PolicyVersion]) -> BTreeSet<Arc<str>> {
        let namespaced = ids.iter().filter_map(|id| self.get(id));
        let rules = namespaced
            .flat_map(|p| p.ingress.iter().flatten())
            .map(|rule| &rule.ports);
        let cluster = ids.iter().filter_map(|id| self.get_cluster(id));
        let rules = rules.chain(cluster.flat_map(|p| &p.ingress).map(|rule| &rule.ports));
        rules.flat_map(|ports| port_names(ports)).cloned().collect()
    }

    fn get(&self, (key, version, _): &PolicyVersion) -> Option<&Arc<NetworkPolicy>> {
        let (stored, policy) = self.by_namespace.get(&key.namespace)?.get(&key.name)?;
        (stored == version).then_some(policy)
    }

    fn get_cluster(&self, (key, version, _): &PolicyVersion) -> Option<&Arc<ClusterNetworkPolicy>> {
        let (stored, policy) = self.cluster.get(&key.name)?;
        (key.namespace.is_empty() && stored == version).then_some(policy)
    }

    /// Returns an active policy and counts one more use of it. The first use activates it.
    pub(crate) fn acquire(&mut self, id: &PolicyVersion, context: &mut Context<'_>) -> Option<Arc<ActivePolicy>> {
        if let Some((active, uses)) = self.active.get_mut(id) {
            *uses += 1;
            return Some(Arc::clone(active));
        }
        let active = match self.get(id) {
            Some(policy) => activate(policy, context),
            None => activate_cluster(self.get_cluster(id)?, id.2, context),
        };
        let active = Arc::new(active);
        self.active.insert(id.clone(), (Arc::clone(&active), 1));
        Some(active)
    }

    /// Counts one use of an active policy less. The last one deactivates it.
    pub(crate) fn release(&mut self, id: &PolicyVersion, context: &mut Context<'_>) {
        let Some((_, uses)) = self.active.get_mut(id) else {
            return;
        };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        if let Some((active, _)) = self.active.remove(id) {
            deactivate(&active, context);
        }
    }
}
