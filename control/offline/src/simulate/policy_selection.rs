//! The policies that select a pod for a direction, in the order of evaluation.

use heddle_model::{Cluster, ClusterNetworkPolicy, NetworkPolicy, Pod, Tier};
use heddle_tables::Direction;

/// A policy that selects a pod, in the order of evaluation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selecting {
    /// The position in the order of evaluation: Admin tier by priority, then network policies, then Baseline tier.
    turn: (u8, u16),
    /// The policy by kind and name.
    pub(super) text: String,
}

/// Returns the policies that select a pod for a direction, in the order of evaluation.
pub(super) fn selecting(cluster: &Cluster, pod: &Pod, direction: Direction) -> impl Iterator<Item = Selecting> + use<> {
    let mut all: Vec<Selecting> = Vec::new();
    // Policies do not select pods of the host's network.
    if !pod.own_ips().is_empty() {
        let network = cluster.policies_in(&pod.key.namespace);
        all.extend(network.filter_map(|policy| of_network(policy, pod, direction)));
        let labels = cluster.namespace_labels(&pod.key.namespace);
        let administrators = cluster
            .cluster_policies()
            .filter(|policy| policy.subject.matches(&labels, &pod.labels));
        all.extend(administrators.filter_map(|policy| of_cluster(policy, direction)));
    }
    all.sort();
    all.into_iter()
}

/// Returns true if a network policy of the pod's namespace selects it for a direction.
pub(super) fn isolates(policy: &NetworkPolicy, pod: &Pod, direction: Direction) -> bool {
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    rules.is_some() && policy.key.namespace == pod.key.namespace && policy.selector.matches(&pod.labels)
}

/// Returns true if a ClusterNetworkPolicy has rules for a direction.
pub(super) const fn has_rules(policy: &ClusterNetworkPolicy, direction: Direction) -> bool {
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    !rules.is_empty()
}

fn of_network(policy: &NetworkPolicy, pod: &Pod, direction: Direction) -> Option<Selecting> {
    isolates(policy, pod, direction).then(|| Selecting {
        turn: (1, 0),
        text: format!("NetworkPolicy {}{}", policy.key, refused(policy.refused)),
    })
}

fn of_cluster(policy: &ClusterNetworkPolicy, direction: Direction) -> Option<Selecting> {
    let tier = match policy.tier {
        Tier::Admin => 0,
        Tier::Baseline => 2,
    };
    has_rules(policy, direction).then(|| Selecting {
        turn: (tier, policy.priority),
        text: format!(
            "ClusterNetworkPolicy {} (tier {}, priority {}){}",
            policy.name,
            policy.tier,
            policy.priority,
            refused(policy.refused)
        ),
    })
}

const fn refused(refused: bool) -> &'static str {
    if refused { " (refused)" } else { "" }
}
