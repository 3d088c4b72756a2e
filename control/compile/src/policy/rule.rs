//! Active policies: rules that name their peers by selector and their decision by identifier.

use std::sync::Arc;

use heddle_model::{PolicyPort, Tier};
use heddle_tables::{Direction, RuleId};

use crate::policy::ids::SelectorId;

/// The order in which policies are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EvaluationTier {
    /// ClusterNetworkPolicies of the Admin tier.
    Admin,
    /// NetworkPolicies.
    Namespaced,
    /// ClusterNetworkPolicies of the Baseline tier, for traffic that no NetworkPolicy decides.
    Baseline,
}

impl From<Tier> for EvaluationTier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Admin => Self::Admin,
            Tier::Baseline => Self::Baseline,
        }
    }
}

/// A policy that selects some endpoint of this node.
#[derive(Debug)]
pub(crate) struct ActivePolicy {
    pub(crate) tier: EvaluationTier,
    /// The rules by [`Direction::index`].
    pub(crate) sides: [ActiveSide; 2],
    /// The port names in egress rules: they depend on the named ports of the peer.
    pub(crate) port_names: Vec<Arc<str>>,
}

/// The rules of an active policy in one direction.
#[derive(Debug, Default)]
pub(crate) struct ActiveSide {
    /// The denial of traffic that no rule allows, if the policy isolates its endpoints in this direction.
    pub(crate) default: Option<RuleId>,
    pub(crate) rules: Vec<Rule>,
}

/// The action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Allow,
    Deny,
    /// Leaves the decision to the next tier.
    Pass,
}

/// One rule of an active policy.
#[derive(Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) effect: Effect,
    /// True if the rule matches every peer, in the cluster and outside.
    pub(crate) everyone: bool,
    /// The matched peers. With `everyone`: the peers to which the answer differs, because of their named ports.
    pub(crate) peers: Vec<SelectorId>,
    /// The matched ports; empty: all ports of every protocol.
    pub(crate) ports: Vec<PolicyPort>,
}

/// Returns the default denial of the first policy that isolates its endpoints in this direction.
pub(crate) fn default_denial(direction: Direction, policies: &[Arc<ActivePolicy>]) -> Option<RuleId> {
    policies.iter().find_map(|a| a.sides[direction.index()].default)
}
