//! Finds the cells of a group that change when some of its policies are replaced, if this is possible without
//! rebuilding all cells.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use heddle_tables::{Direction, IdentityId, RuleId};

use crate::policy::ids::SelectorId;
use crate::policy::rule::{ActivePolicy, EvaluationTier, Rule, default_denial};
use crate::policy::selectors::Selectors;

/// The cells to rebuild when policies of a group are replaced by others.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The selectors in changed rules of the new policies.
    pub(crate) added: BTreeSet<SelectorId>,
    /// The identities that changed rules of the removed policies matched.
    pub(crate) removed: BTreeSet<IdentityId>,
}

impl Exchange {
    /// Compares the policies of a group before and after. `None`: a changed rule matches everyone, or the default
    /// denial differs, so every cell may differ.
    pub(crate) fn between(
        direction: Direction,
        before: &[Arc<ActivePolicy>],
        after: &[Arc<ActivePolicy>],
        selectors: &Selectors,
    ) -> Option<Self> {
        if default_denial(direction, before) != default_denial(direction, after) {
            return None;
        }
        let (gone, new) = (without(before, after), without(after, before));
        let removed = changed_peers(direction, &gone, &new)?
            .into_iter()
            .filter_map(|s| selectors.get(s))
            .flat_map(|s| s.members.iter().copied())
            .collect();
        Some(Self {
            added: changed_peers(direction, &new, &gone)?,
            removed,
        })
    }
}

/// Returns the policies in `all` that are not in `others`.
fn without(all: &[Arc<ActivePolicy>], others: &[Arc<ActivePolicy>]) -> Vec<Arc<ActivePolicy>> {
    let others: HashSet<*const ActivePolicy> = others.iter().map(Arc::as_ptr).collect();
    let remaining = all.iter().filter(|one| !others.contains(&Arc::as_ptr(one)));
    remaining.cloned().collect()
}

/// Returns the peers of the rules of `policies`, except for rules that `others` contain too. `None`: some rule matches
/// everyone.
fn changed_peers(
    direction: Direction,
    policies: &[Arc<ActivePolicy>],
    others: &[Arc<ActivePolicy>],
) -> Option<BTreeSet<SelectorId>> {
    // An equal rule of another policy counts as unchanged only among NetworkPolicies. They are evaluated by name, and an
    // equal identifier means an equal policy name and rule index, so the rule keeps its place in the order.
    let namespaced = others.iter().filter(|active| active.tier == EvaluationTier::Namespaced);
    let known: HashMap<RuleId, &Rule> = namespaced
        .flat_map(|active| &active.sides[direction.index()].rules)
        .map(|rule| (rule.id, rule))
        .collect();
    let rules = policies
        .iter()
        .flat_map(|active| &active.sides[direction.index()].rules);
    let mut peers = BTreeSet::new();
    for rule in rules.filter(|rule| known.get(&rule.id) != Some(rule)) {
        if rule.everyone {
            return None;
        }
        peers.extend(&rule.peers);
    }
    Some(peers)
}
