//! One group: the policies that select its endpoints, and the cells compiled from them.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use heddle_model::PolicyPorts;
use heddle_tables::{Direction, EndpointPolicy, IdentityId, PeerRules, PolicySideBuilder, RuleId};

use crate::policy::identities::Identity;
use crate::policy::ids::{NamedPort, PolicyVersion, SelectorId};
use crate::policy::rule::{ActivePolicy, EvaluationTier, Rule, default_denial};
use crate::policy::rule_fold::RuleFold;

/// For each list of matching rules, an identity whose cell has been compiled from it.
pub(crate) type CellCache = HashMap<Vec<RuleRank>, IdentityId>;

/// The position of a rule in a group: the slot of its policy, and the rule's index within it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct RulePosition {
    slot: usize,
    rule: usize,
}

/// The evaluation order of a rule: the rank of its policy, and the rule's index within it.
type RuleRank = (usize, usize);

/// The properties that all endpoints of a group share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct GroupKey {
    /// The policies that select them, in evaluation order.
    pub(crate) policies: Vec<PolicyVersion>,
    /// Their named ports that ingress rules refer to.
    pub(crate) ports: Vec<NamedPort>,
}

/// One direction of a group's policy.
#[derive(Debug)]
struct GroupSide {
    builder: PolicySideBuilder,
    /// True if a NetworkPolicy isolates the endpoints, so that the Baseline tier is never evaluated.
    isolates: bool,
    by_selector: HashMap<SelectorId, Vec<RulePosition>>,
    /// Rules that match every peer.
    everyone: Vec<RulePosition>,
}

/// A group of endpoints.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    /// The active policies. A policy keeps its slot while others are added and removed.
    slots: Vec<Option<Arc<ActivePolicy>>>,
    /// The slots in evaluation order.
    order: Vec<usize>,
    /// The index of each slot in `order`.
    ranks: Vec<usize>,
    sides: [GroupSide; 2],
    /// The number of endpoints.
    pub(crate) uses: u32,
    /// True if a cell changed since `policy` was made.
    changed: bool,
    /// The policy as it was last published.
    pub(crate) policy: Arc<EndpointPolicy>,
}

impl Group {
    /// Makes a group in which every cell has the answer to peers that no selector matches.
    pub(crate) fn new(key: GroupKey, active: Vec<Arc<ActivePolicy>>) -> Self {
        let policy = Arc::new(EndpointPolicy::open());
        let mut group = Self {
            key,
            slots: Vec::new(),
            order: Vec::new(),
            ranks: Vec::new(),
            sides: Direction::BOTH.map(|direction| GroupSide::new(default_denial(direction, &active))),
            uses: 0,
            changed: true,
            policy,
        };
        group.replace(active);
        for direction in Direction::BOTH {
            let everyone = group.ranked(&group.side(direction).everyone);
            let answer = group.answer(direction, &everyone, None);
            group.sides[direction.index()].builder.set_base(answer);
        }
        group
    }

    /// Replaces the policies. Returns the selectors that removed policies had and no remaining policy has; a new policy
    /// may have some of them again.
    pub(crate) fn replace(&mut self, active: Vec<Arc<ActivePolicy>>) -> Vec<(SelectorId, Direction)> {
        // Policies that stay keep their slots; the slots of the others become free.
        let mut staying: HashMap<*const ActivePolicy, usize> = HashMap::default();
        let mut unused = Vec::new();
        let new: HashSet<*const ActivePolicy> = active.iter().map(Arc::as_ptr).collect();
        for slot in 0..self.slots.len() {
            let Some(policy) = self.slots[slot].take() else {
                continue;
            };
            if new.contains(&Arc::as_ptr(&policy)) {
                staying.insert(Arc::as_ptr(&policy), slot);
                self.slots[slot] = Some(policy);
                continue;
            }
            for direction in Direction::BOTH {
                let selectors = self.sides[direction.index()].remove(slot, &policy, direction);
                unused.extend(selectors.into_iter().map(|selector| (selector, direction)));
            }
        }
        // New policies fill the free slots; the order is that of `active`.
        self.order.clear();
        let mut free = 0;
        for policy in active {
            let slot = staying.get(&Arc::as_ptr(&policy)).copied().unwrap_or_else(|| {
                while self.slots.get(free).is_some_and(Option::is_some) {
                    free += 1;
                }
                if free == self.slots.len() {
                    self.slots.push(None);
                }
                for direction in Direction::BOTH {
                    self.sides[direction.index()].add(free, &policy, direction);
                }
                self.slots[free] = Some(policy);
                free
            });
            self.order.push(slot);
        }
        self.ranks = vec![0; self.slots.len()];
        for (rank, slot) in self.order.iter().enumerate() {
            self.ranks[*slot] = rank;
        }
        unused
    }

    /// Returns the policies in evaluation order.
    pub(crate) fn active(&self) -> Vec<Arc<ActivePolicy>> {
        let in_slot = |slot: &usize| self.slots.get(*slot)?.clone();
        self.order.iter().filter_map(in_slot).collect()
    }

    /// Returns rules in evaluation order, without duplicates.
    fn ranked<'a>(&self, rules: impl IntoIterator<Item = &'a RulePosition>) -> Vec<RuleRank> {
        let rank = |at: &RulePosition| (self.ranks[at.slot], at.rule);
        let mut ranked: Vec<RuleRank> = rules.into_iter().map(rank).collect();
        ranked.sort_unstable();
        ranked.dedup();
        ranked
    }

    const fn side(&self, direction: Direction) -> &GroupSide {
        &self.sides[direction.index()]
    }

    /// Returns the selectors of the rules in one direction.
    pub(crate) fn selectors(&self, direction: Direction) -> impl Iterator<Item = SelectorId> {
        self.side(direction).by_selector.keys().copied()
    }

    /// Returns true if some rule in this direction has the selector.
    pub(crate) fn has_selector(&self, direction: Direction, selector: SelectorId) -> bool {
        self.side(direction).by_selector.contains_key(&selector)
    }

    fn rule(&self, direction: Direction, (rank, rule): RuleRank) -> Option<(EvaluationTier, &Rule)> {
        let active = self.slots.get(*self.order.get(rank)?)?.as_ref()?;
        Some((active.tier, active.sides[direction.index()].rules.get(rule)?))
    }

    /// Recompiles the cell of an identity. `identity` is `None` if the identity was removed. `cache` has the cells that
    /// are compiled already: identities that the same rules match have equal cells.
    pub(crate) fn rebuild_cell(
        &mut self,
        direction: Direction,
        id: IdentityId,
        identity: Option<&Identity>,
        cache: &mut CellCache,
    ) {
        let side = self.side(direction);
        let own = identity
            .into_iter()
            .flat_map(|i| &i.matched)
            .filter_map(|s| side.by_selector.get(s))
            .flatten();
        let mut own = own.peekable();
        if own.peek().is_none() {
            self.changed |= self.sides[direction.index()].builder.set(id, PeerRules::Default);
            return;
        }
        let rules = self.ranked(own.chain(&side.everyone));
        // The answer of egress rules may depend on the peer's named ports. Such a cell is not shared.
        let depends = direction == Direction::Egress && identity.is_some_and(|i| !i.ports.is_empty());
        if !depends && let Some(other) = cache.get(&rules) {
            self.changed |= self.sides[direction.index()].builder.set_like(id, *other);
            return;
        }
        let answer = self.answer(direction, &rules, identity);
        self.changed |= self.sides[direction.index()].builder.set(id, answer);
        if !depends {
            cache.insert(rules, id);
        }
    }

    /// Folds rules, in evaluation order, into the answer to a peer.
    fn answer(&self, direction: Direction, rules: &[RuleRank], peer: Option<&Identity>) -> PeerRules {
        // A port is the destination's: the endpoint's own on ingress, the peer's on egress.
        let named: &[NamedPort] = match direction {
            Direction::Ingress => &self.key.ports,
            Direction::Egress => peer.map_or(&[], |peer| &peer.ports),
        };
        let mut fold = RuleFold::default();
        for (tier, rule) in rules.iter().filter_map(|at| self.rule(direction, *at)) {
            if fold.is_decided() {
                break;
            }
            if rule.ports.is_empty() {
                fold.add_all_ports(tier, rule);
            }
            for port in &rule.ports {
                match &port.ports {
                    PolicyPorts::Any => fold.add_ports(tier, rule, port.protocol, 0, u16::MAX),
                    PolicyPorts::Range(r) => {
                        fold.add_ports(tier, rule, port.protocol, r.first().get(), r.last().get());
                    }
                    PolicyPorts::Name(name) => {
                        let with_name = named
                            .iter()
                            .filter(|(n, protocol, _)| n == name && *protocol == port.protocol);
                        for (_, _, number) in with_name {
                            fold.add_ports(tier, rule, port.protocol, *number, *number);
                        }
                    }
                }
            }
        }
        fold.finish()
    }

    /// Makes the policy from the cells, if one changed. Returns the number of pages that were copied for it.
    pub(crate) fn publish_policy(&mut self) -> u64 {
        if std::mem::take(&mut self.changed) {
            let [ingress, egress] = &self.sides;
            self.policy = Arc::new(EndpointPolicy::new(
                ingress.builder.side().clone(),
                egress.builder.side().clone(),
            ));
        }
        self.sides.iter_mut().map(|s| s.builder.take_copied()).sum()
    }
}

impl GroupSide {
    fn new(default: Option<RuleId>) -> Self {
        Self {
            builder: default.map_or_else(PolicySideBuilder::open, PolicySideBuilder::isolated),
            isolates: default.is_some(),
            by_selector: HashMap::default(),
            everyone: Vec::new(),
        }
    }

    /// Returns the rules of a policy that are evaluated in this group.
    fn effective_rules<'a>(&self, policy: &'a ActivePolicy, direction: Direction) -> &'a [Rule] {
        // ClusterNetworkPolicy API: "v1.NetworkPolicy always makes a final decision for selected pods."
        match policy.tier == EvaluationTier::Baseline && self.isolates {
            true => &[],
            false => &policy.sides[direction.index()].rules,
        }
    }

    fn add(&mut self, slot: usize, policy: &ActivePolicy, direction: Direction) {
        for (index, rule) in self.effective_rules(policy, direction).iter().enumerate() {
            let at = RulePosition { slot, rule: index };
            for selector in &rule.peers {
                self.by_selector.entry(*selector).or_default().push(at);
            }
            if rule.everyone {
                self.everyone.push(at);
            }
        }
    }

    /// Removes a policy's rules. Returns the selectors that no other rule has.
    fn remove(&mut self, slot: usize, policy: &ActivePolicy, direction: Direction) -> Vec<SelectorId> {
        let mut unused = Vec::new();
        let rules = self.effective_rules(policy, direction);
        for selector in rules.iter().flat_map(|rule| &rule.peers) {
            let Some(positions) = self.by_selector.get_mut(selector) else {
                continue;
            };
            positions.retain(|at| at.slot != slot);
            if positions.is_empty() {
                self.by_selector.remove(selector);
                unused.push(*selector);
            }
        }
        self.everyone.retain(|at| at.slot != slot);
        unused
    }
}
