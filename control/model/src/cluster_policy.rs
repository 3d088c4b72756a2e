//! Policies of the cluster's administrators, evaluated before and after NetworkPolicies.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::policy::PolicyPort;
use crate::selector::LabelSelector;

/// `policy.networking.k8s.io/v1alpha2` `ClusterNetworkPolicy`
///
/// The Admin tier is evaluated first, by priority. NetworkPolicies come next and decide finally for the pods that they
/// select. The Baseline tier comes last. The first matching rule of a tier ends the tier. A policy without rules for a
/// direction does not affect that direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `spec.tier`
    pub tier: Tier,
    /// `spec.priority`, 0 to 1000: lower ones are evaluated first. The API leaves the order of equal priorities open; heddle
    /// orders them by name.
    pub priority: u16,
    /// `spec.subject`
    pub subject: PodSubject,
    /// `spec.ingress`, in order.
    pub ingress: Vec<ClusterRule>,
    /// `spec.egress`, in order.
    pub egress: Vec<ClusterRule>,
    /// True if the policy was refused and never was good. It then has one rule for each direction that denies everything.
    pub refused: bool,
}

impl ClusterNetworkPolicy {
    /// The highest `spec.priority`.
    pub const MAX_PRIORITY: u16 = 1000;
}

/// `spec.tier`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// `Admin`: evaluated before NetworkPolicies.
    Admin,
    /// `Baseline`: evaluated after NetworkPolicies, for pods that none of them selects.
    Baseline,
}

impl Tier {
    /// Returns the API's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Tier::Admin => "Admin",
            Tier::Baseline => "Baseline",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not the name of a [`Tier`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no known tier: use Admin or Baseline")]
pub struct UnknownTier;

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Tier, UnknownTier> {
        match text {
            "Admin" => Ok(Tier::Admin),
            "Baseline" => Ok(Tier::Baseline),
            _ => Err(UnknownTier),
        }
    }
}

/// Pods by the labels of their namespaces and their own: `subject`, or a peer. Pods in the host's network never match.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodSubject {
    /// `namespaces`, or `pods.namespaceSelector`
    pub namespaces: LabelSelector,
    /// `pods.podSelector`; with `namespaces` alone: all pods.
    pub pods: LabelSelector,
}

impl PodSubject {
    /// Returns true if it selects a pod with these labels in a namespace with these labels.
    #[must_use]
    pub fn matches(&self, namespace: &Labels, pod: &Labels) -> bool {
        self.namespaces.matches(namespace) && self.pods.matches(pod)
    }

    /// Returns true if it selects such a pod, or may select it because labels cannot be read.
    #[must_use]
    pub fn may_match(&self, namespace: &Labels, pod: &Labels) -> bool {
        self.namespaces.may_match(namespace) && self.pods.may_match(pod)
    }
}

/// One entry of `spec.ingress[]` or `spec.egress[]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterRule {
    /// `name`; may be empty.
    pub name: Arc<str>,
    /// `action`
    pub action: RuleAction,
    /// `from` or `to`: the rule matches peers that one entry matches. Unlike in a NetworkPolicy, an empty list matches
    /// no peer.
    pub peers: Vec<ClusterPeer>,
    /// `protocols`; empty (or absent): all ports and protocols.
    pub ports: Vec<PolicyPort>,
}

/// `action`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RuleAction {
    /// Allows, regardless of later rules and tiers.
    Accept,
    /// Denies, regardless of later rules and tiers.
    Deny,
    /// Leaves the decision to the next tier.
    Pass,
}

/// One entry of `from[]` or `to[]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ClusterPeer {
    /// `namespaces` or `pods`
    Pods(PodSubject),
    /// `nodes`: the addresses of nodes with matching labels.
    Nodes(LabelSelector),
    /// One entry of `networks`: addresses, of pods too.
    Network(IpNet),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Requirement;

    #[test]
    fn tiers_are_parsed_from_the_apis_names() {
        for tier in [Tier::Admin, Tier::Baseline] {
            assert_eq!(tier.as_str().parse(), Ok(tier));
        }
        assert_eq!("admin".parse::<Tier>(), Err(UnknownTier));
    }

    #[test]
    fn a_subject_must_match_by_namespace_and_pod() {
        let label = |value| LabelSelector::new([Requirement::label("a", value).unwrap()]);
        let labels = |value: &str| Labels::new([("a", value)]).unwrap();
        let subject = PodSubject {
            namespaces: label("1"),
            pods: label("2"),
        };
        assert!(subject.matches(&labels("1"), &labels("2")));
        assert!(!subject.matches(&labels("2"), &labels("2")));
        assert!(!subject.matches(&labels("1"), &labels("1")));
        assert!(PodSubject::default().matches(&Labels::default(), &labels("9")));
    }
}
