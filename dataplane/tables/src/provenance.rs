//! The policy and rule behind a [`RuleId`], by name.

use std::fmt;
use std::sync::Arc;

use heddle_ids::RuleId;

use crate::Direction;

/// The kind of a policy object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

/// The tier of a cluster administrator's policy: before network policies or after them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyTier {
    /// Evaluated before network policies.
    Admin,
    /// Evaluated after network policies.
    Baseline,
}

impl PolicyTier {
    /// Returns the tier as the Kubernetes API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        }
    }
}

impl PolicyKind {
    /// Returns the Kubernetes kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

/// The reason for which a connection was allowed or denied.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Provenance {
    /// [`RuleId::NO_POLICY`].
    NoPolicy,
    /// [`RuleId::OWN_NODE`].
    OwnNode,
    /// [`RuleId::SELF`].
    Itself,
    /// [`RuleId::NOT_READY`].
    NotReady,
    /// A rule of a policy matched.
    Rule {
        /// The policy's kind.
        kind: PolicyKind,
        /// Its namespace; empty for kinds of the whole cluster.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// The list that contains the rule: ingress or egress.
        direction: Direction,
        /// The index of the rule in that list, from 0.
        rule: u32,
    },
    /// A rule of a policy of the cluster's administrators matched.
    ClusterRule {
        /// Its tier.
        tier: PolicyTier,
        /// The policy's name.
        name: Arc<str>,
        /// The list that contains the rule: ingress or egress.
        direction: Direction,
        /// The index of the rule in that list, from 0.
        rule: u32,
        /// The rule's own name; may be empty.
        title: Arc<str>,
    },
    /// No rule matched, and a policy selects the pod for that direction. If several do, this is the first one by name.
    DefaultDeny {
        /// The policy's namespace.
        namespace: Arc<str>,
        /// The policy's name.
        name: Arc<str>,
        /// The direction.
        direction: Direction,
    },
    /// A policy was refused and no earlier version of it was accepted, so it denies everything to the pods that it selects.
    Refused {
        /// The policy's kind.
        kind: PolicyKind,
        /// The policy's namespace; empty for kinds of the whole cluster.
        namespace: Arc<str>,
        /// The policy's name.
        name: Arc<str>,
        /// The direction.
        direction: Direction,
    },
}

impl Provenance {
    /// Returns the reason behind a constant rule; `None` for a policy's rule.
    #[must_use]
    pub const fn fixed(rule: RuleId) -> Option<Self> {
        match rule {
            RuleId::NO_POLICY => Some(Self::NoPolicy),
            RuleId::OWN_NODE => Some(Self::OwnNode),
            RuleId::SELF => Some(Self::Itself),
            RuleId::NOT_READY => Some(Self::NotReady),
            _ => None,
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str("no policy selects the pod"),
            Self::OwnNode => f.write_str("traffic between a pod and its own node is always allowed"),
            Self::Itself => f.write_str("NetworkPolicies never block a pod from itself"),
            Self::NotReady => f.write_str("the pod's policy is not compiled yet"),
            Self::Rule {
                kind,
                namespace,
                name,
                direction,
                rule,
            } => {
                let slash = if namespace.is_empty() { "" } else { "/" };
                write!(f, "{} {namespace}{slash}{name} {direction} rule {rule}", kind.as_str())
            }
            Self::ClusterRule {
                tier,
                name,
                direction,
                rule,
                title,
            } => {
                let (kind, tier) = (PolicyKind::ClusterNetworkPolicy.as_str(), tier.as_str());
                write!(f, "{kind} {name} (tier {tier}) {direction} rule {rule}")?;
                if title.is_empty() {
                    Ok(())
                } else {
                    write!(f, " {title:?}")
                }
            }
            Self::DefaultDeny {
                namespace,
                name,
                direction,
            } => {
                write!(
                    f,
                    "default deny because {namespace}/{name} selects this pod for {direction}"
                )
            }
            Self::Refused {
                kind,
                namespace,
                name,
                direction,
            } => {
                let slash = if namespace.is_empty() { "" } else { "/" };
                let kind = kind.as_str();
                write!(
                    f,
                    "denied because {kind} {namespace}{slash}{name}, which selects this pod for {direction}, was refused"
                )
            }
        }
    }
}
