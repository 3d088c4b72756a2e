//! Groups: endpoints that the same policies select, and the one compiled policy that they share.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use heddle_model::{PolicyPorts, Protocol};
use heddle_tables::{Direction, EndpointPolicy, IdentityId, PeerRules, PolicySideBuilder, RuleId};

use crate::policy::identities::{Identities, Identity};
use crate::policy::policies::{Active, PolicyId, Rule, Tier};
use crate::policy::rule_fold::Said;
use crate::policy::selectors::{SelectorId, Selectors};

/// The number of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct GroupId(u32);

/// A named port: name, protocol, number.
pub(crate) type NamedPort = (Arc<str>, Protocol, u16);

/// Identities whose cells are made already, by the rules that they were made of.
type Alike = HashMap<Vec<Ranked>, IdentityId>;

/// A rule of a group: the slot of its policy, and its place within.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct RuleAt {
    slot: usize,
    place: usize,
}

/// A rule by when it is asked: the rank of its policy, and its place within.
type Ranked = (usize, usize);

/// What makes endpoints equal for policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct GroupKey {
    /// The policies that select them, in the order in which they are asked.
    pub(crate) policies: Vec<PolicyId>,
    /// Their own named ports that ingress rules speak of.
    pub(crate) ports: Vec<NamedPort>,
}

/// One direction of a group's policy.
#[derive(Debug)]
struct Side {
    builder: PolicySideBuilder,
    /// A network policy has the last word.
    isolates: bool,
    by_selector: HashMap<SelectorId, Vec<RuleAt>>,
    everyone: Vec<RuleAt>,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    /// Its policies. A policy keeps its slot while others come and go.
    slots: Vec<Option<Arc<Active>>>,
    /// The slots in the order in which the policies are asked, ...
    order: Vec<usize>,
    /// ... and the place in that order, by slot.
    ranks: Vec<usize>,
    sides: [Side; 2],
    pub(crate) uses: u32,
    changed: bool,
    /// The policy as it was last handed out.
    pub(crate) policy: Arc<EndpointPolicy>,
}

impl Group {
    fn new(key: GroupKey, active: Vec<Arc<Active>>) -> Self {
        let policy = Arc::new(EndpointPolicy::open());
        let mut group = Self {
            key,
            slots: Vec::new(),
            order: Vec::new(),
            ranks: Vec::new(),
            sides: Direction::BOTH.map(|direction| Side::new(default_of(direction, &active))),
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

    /// Takes these policies in place of those that it has; gives the selectors that only those named that went, or that those
    /// that came name again.
    fn replace(&mut self, active: Vec<Arc<Active>>) -> Vec<(SelectorId, Direction)> {
        let mut stays: HashMap<*const Active, usize> = HashMap::default();
        let mut gone = Vec::new();
        let new: HashSet<*const Active> = active.iter().map(Arc::as_ptr).collect();
        for slot in 0..self.slots.len() {
            let Some(policy) = self.slots[slot].take() else {
                continue;
            };
            if new.contains(&Arc::as_ptr(&policy)) {
                stays.insert(Arc::as_ptr(&policy), slot);
                self.slots[slot] = Some(policy);
                continue;
            }
            for direction in Direction::BOTH {
                let selectors = self.sides[direction.index()].remove(slot, &policy, direction);
                gone.extend(selectors.into_iter().map(|selector| (selector, direction)));
            }
        }
        self.order.clear();
        let mut free = 0;
        for policy in active {
            let slot = stays.get(&Arc::as_ptr(&policy)).copied().unwrap_or_else(|| {
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
        gone
    }

    /// Its policies in the order in which they are asked.
    fn active(&self) -> Vec<Arc<Active>> {
        let of = |slot: &usize| self.slots.get(*slot)?.clone();
        self.order.iter().filter_map(of).collect()
    }

    /// Rules in the order in which they are asked, each once.
    fn ranked<'a>(&self, rules: impl IntoIterator<Item = &'a RuleAt>) -> Vec<Ranked> {
        let rank = |at: &RuleAt| (self.ranks[at.slot], at.place);
        let mut ranked: Vec<Ranked> = rules.into_iter().map(rank).collect();
        ranked.sort_unstable();
        ranked.dedup();
        ranked
    }

    const fn side(&self, direction: Direction) -> &Side {
        &self.sides[direction.index()]
    }

    /// The selectors that its rules have in one direction.
    fn selectors(&self, direction: Direction) -> impl Iterator<Item = SelectorId> {
        self.side(direction).by_selector.keys().copied()
    }

    fn rule(&self, direction: Direction, (rank, place): Ranked) -> Option<(Tier, &Rule)> {
        let active = self.slots.get(*self.order.get(rank)?)?.as_ref()?;
        Some((active.tier, active.sides[direction.index()].rules.get(place)?))
    }

    /// Makes the cell of an identity anew. `None`: the identity is gone. `alike` are identities whose cells are made, by
    /// the rules that they were made of.
    fn refresh(&mut self, direction: Direction, id: IdentityId, identity: Option<&Identity>, alike: &mut Alike) {
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
        // What a rule says may depend on the peer's named ports.
        let depends = direction == Direction::Egress && identity.is_some_and(|i| !i.ports().is_empty());
        if !depends && let Some(other) = alike.get(&rules) {
            self.changed |= self.sides[direction.index()].builder.set_like(id, *other);
            return;
        }
        let answer = self.answer(direction, &rules, identity);
        self.changed |= self.sides[direction.index()].builder.set(id, answer);
        if !depends {
            alike.insert(rules, id);
        }
    }

    /// What the rules, in their order, say of a peer.
    fn answer(&self, direction: Direction, rules: &[Ranked], peer: Option<&Identity>) -> PeerRules {
        let named: &[NamedPort] = match direction {
            // Ports are those of the destination: of the endpoint itself, or of the peer.
            Direction::Ingress => &self.key.ports,
            Direction::Egress => peer.map_or(&[], Identity::ports),
        };
        let mut said = Said::default();
        for (tier, rule) in rules.iter().filter_map(|at| self.rule(direction, *at)) {
            if said.is_settled() {
                break;
            }
            if rule.ports.is_empty() {
                said.everything(tier, rule);
            }
            for port in &rule.ports {
                match &port.ports {
                    PolicyPorts::Any => said.ports(tier, rule, port.protocol, 0, u16::MAX),
                    PolicyPorts::Range(r) => said.ports(tier, rule, port.protocol, r.first().get(), r.last().get()),
                    PolicyPorts::Name(name) => {
                        let of_name = named
                            .iter()
                            .filter(|(n, protocol, _)| n == name && *protocol == port.protocol);
                        for (_, _, number) in of_name {
                            said.ports(tier, rule, port.protocol, *number, *number);
                        }
                    }
                }
            }
        }
        said.answer()
    }

    /// Hands out the policy as it stands.
    fn hand_out(&mut self) {
        if std::mem::take(&mut self.changed) {
            let [ingress, egress] = &self.sides;
            self.policy = Arc::new(EndpointPolicy::new(
                ingress.builder.side().clone(),
                egress.builder.side().clone(),
            ));
        }
    }
}

/// The default denial of the first policy that isolates.
fn default_of(direction: Direction, active: &[Arc<Active>]) -> Option<RuleId> {
    active.iter().find_map(|a| a.sides[direction.index()].default)
}

impl Side {
    fn new(default: Option<RuleId>) -> Self {
        Self {
            builder: default.map_or_else(PolicySideBuilder::open, PolicySideBuilder::isolated),
            isolates: default.is_some(),
            by_selector: HashMap::default(),
            everyone: Vec::new(),
        }
    }

    /// The rules of a policy that count.
    fn counting<'a>(&self, policy: &'a Active, direction: Direction) -> &'a [Rule] {
        // "v1.NetworkPolicy always makes a final decision for selected pods."
        match policy.tier == Tier::Baseline && self.isolates {
            true => &[],
            false => &policy.sides[direction.index()].rules,
        }
    }

    fn add(&mut self, slot: usize, policy: &Active, direction: Direction) {
        for (place, rule) in self.counting(policy, direction).iter().enumerate() {
            let at = RuleAt { slot, place };
            for selector in &rule.peers {
                self.by_selector.entry(*selector).or_default().push(at);
            }
            if rule.everyone {
                self.everyone.push(at);
            }
        }
    }

    /// Gives the selectors that no rule has any more.
    fn remove(&mut self, slot: usize, policy: &Active, direction: Direction) -> Vec<SelectorId> {
        let mut unused = Vec::new();
        for selector in self.counting(policy, direction).iter().flat_map(|rule| &rule.peers) {
            let Some(rules) = self.by_selector.get_mut(selector) else {
                continue;
            };
            rules.retain(|at| at.slot != slot);
            if rules.is_empty() {
                self.by_selector.remove(selector);
                unused.push(*selector);
            }
        }
        self.everyone.retain(|at| at.slot != slot);
        unused
    }
}

/// Which cells are others where policies of a group are replaced.
#[derive(Debug)]
struct Exchange {
    /// The selectors of policies that came.
    came: BTreeSet<SelectorId>,
    /// Whom the policies that went selected.
    touched: BTreeSet<IdentityId>,
}

impl Exchange {
    /// `None` where what is said of everyone, or by default, is another.
    fn of(direction: Direction, before: &[Arc<Active>], active: &[Arc<Active>], selectors: &Selectors) -> Option<Self> {
        let without = |all: &[Arc<Active>], others: &[Arc<Active>]| -> Vec<Arc<Active>> {
            let others: HashSet<*const Active> = others.iter().map(Arc::as_ptr).collect();
            let those = all.iter().filter(|one| !others.contains(&Arc::as_ptr(one)));
            those.cloned().collect()
        };
        if default_of(direction, before) != default_of(direction, active) {
            return None;
        }
        let (went, came) = (without(before, active), without(active, before));
        let touched = peers_of(direction, &went, &came)?
            .into_iter()
            .filter_map(|s| selectors.get(s))
            .flat_map(|s| s.members.iter().copied())
            .collect();
        Some(Self {
            came: peers_of(direction, &came, &went)?,
            touched,
        })
    }
}

/// Whom the rules of `policies` speak of, but for those that `others` have too; `None`: of everyone.
fn peers_of(direction: Direction, policies: &[Arc<Active>], others: &[Arc<Active>]) -> Option<BTreeSet<SelectorId>> {
    // Network policies are asked by name, and a rule's number stands for its policy's name and its own place.
    let namespaced = others.iter().filter(|active| active.tier == Tier::Namespaced);
    let known: HashMap<RuleId, &Rule> = namespaced
        .flat_map(|active| &active.sides[direction.index()].rules)
        .map(|rule| (rule.number, rule))
        .collect();
    let rules = policies
        .iter()
        .flat_map(|active| &active.sides[direction.index()].rules);
    let mut peers = BTreeSet::new();
    for rule in rules.filter(|rule| known.get(&rule.number) != Some(rule)) {
        if rule.everyone {
            return None;
        }
        peers.extend(&rule.peers);
    }
    Some(peers)
}

/// All groups in use.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Option<Group>>,
    known: HashMap<GroupKey, GroupId>,
    free: Vec<GroupId>,
    /// Groups whose cells are to be made: all, or those that an exchange names.
    fresh: Vec<(GroupId, [Option<Exchange>; 2])>,
    touched: BTreeSet<GroupId>,
}

impl Groups {
    pub(crate) fn get(&self, id: GroupId) -> Option<&Group> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The group of a key, used once more.
    pub(crate) fn reuse(&mut self, key: &GroupKey) -> Option<GroupId> {
        let id = *self.known.get(key)?;
        self.get_mut(id)?.uses += 1;
        Some(id)
    }

    /// Makes a group, used once. Its cells are made by [`fill`](Self::fill).
    pub(crate) fn create(&mut self, key: GroupKey, active: Vec<Arc<Active>>, selectors: &mut Selectors) -> GroupId {
        let mut group = Group::new(key.clone(), active);
        group.uses = 1;
        let id = self.free.pop().unwrap_or(GroupId(self.slots.len() as u32));
        for direction in Direction::BOTH {
            for selector in group.selectors(direction) {
                if let Some(selector) = selectors.get_mut(selector) {
                    selector.groups.insert((id, direction));
                }
            }
        }
        match self.slots.get_mut(id.0 as usize) {
            Some(slot) => *slot = Some(group),
            None => self.slots.push(Some(group)),
        }
        self.known.insert(key, id);
        self.fresh.push((id, [None, None]));
        self.touched.insert(id);
        id
    }

    /// Gives a group another key, for all who use it, if only cells change that its old and new policies name: how much
    /// the policies that stay have to say costs nothing. Gives back the policies that it was made of.
    /// `None` where a new group is to be made.
    pub(crate) fn adapt(
        &mut self,
        id: GroupId,
        key: &GroupKey,
        active: &[Arc<Active>],
        selectors: &mut Selectors,
    ) -> Option<Vec<PolicyId>> {
        let group = self.slots.get_mut(id.0 as usize)?.as_mut()?;
        if group.key.ports != key.ports {
            return None;
        }
        let before = group.active();
        let exchanges = Direction::BOTH.map(|direction| Exchange::of(direction, &before, active, selectors));
        if exchanges.iter().any(Option::is_none) {
            return None;
        }
        for (selector, direction) in group.replace(active.to_vec()) {
            let still = group.side(direction).by_selector.contains_key(&selector);
            if let Some(selector) = selectors.get_mut(selector).filter(|_| !still) {
                selector.groups.remove(&(id, direction));
            }
        }
        for (direction, exchange) in Direction::BOTH.into_iter().zip(&exchanges) {
            for selector in exchange.iter().flat_map(|exchange| &exchange.came) {
                let counts = group.side(direction).by_selector.contains_key(selector);
                if let Some(selector) = selectors.get_mut(*selector).filter(|_| counts) {
                    selector.groups.insert((id, direction));
                }
            }
        }
        let before = std::mem::replace(&mut group.key, key.clone());
        self.known.remove(&before);
        self.known.insert(key.clone(), id);
        self.fresh.push((id, exchanges));
        self.touched.insert(id);
        Some(before.policies)
    }

    /// A group is used once less; the last use takes it away and gives back the policies that it was made of.
    pub(crate) fn release(&mut self, id: GroupId, selectors: &mut Selectors) -> Vec<PolicyId> {
        let Some(group) = self.get_mut(id) else {
            return Vec::new();
        };
        group.uses -= 1;
        if group.uses > 0 {
            return Vec::new();
        }
        let Some(group) = self.slots[id.0 as usize].take() else {
            return Vec::new();
        };
        for direction in Direction::BOTH {
            for selector in group.selectors(direction) {
                if let Some(selector) = selectors.get_mut(selector) {
                    selector.groups.remove(&(id, direction));
                }
            }
        }
        self.known.remove(&group.key);
        self.touched.remove(&id);
        self.free.push(id);
        group.key.policies
    }

    /// Makes the cells of new groups.
    pub(crate) fn fill(&mut self, selectors: &Selectors, identities: &Identities) {
        for (id, exchanges) in std::mem::take(&mut self.fresh) {
            let Some(group) = self.get_mut(id) else { continue };
            for (direction, exchange) in Direction::BOTH.into_iter().zip(exchanges) {
                let of = |s| selectors.get(s).into_iter().flat_map(|s| s.members.iter().copied());
                let members: BTreeSet<IdentityId> = match exchange {
                    Some(other) => other.came.into_iter().flat_map(of).chain(other.touched).collect(),
                    None => group.selectors(direction).flat_map(of).collect(),
                };
                let mut alike = Alike::default();
                for member in members {
                    group.refresh(direction, member, identities.get(member), &mut alike);
                }
            }
        }
    }

    /// Makes one cell anew in one direction of a group.
    pub(crate) fn refresh(&mut self, id: GroupId, direction: Direction, who: IdentityId, identity: Option<&Identity>) {
        if let Some(group) = self.get_mut(id) {
            group.refresh(direction, who, identity, &mut Alike::default());
            self.touched.insert(id);
        }
    }

    /// Hands out the policies of the groups that changed; says how many pages were copied for them.
    pub(crate) fn hand_out(&mut self) -> u64 {
        let mut copied = 0;
        for id in std::mem::take(&mut self.touched) {
            if let Some(group) = self.get_mut(id) {
                group.hand_out();
                copied += group.sides.iter_mut().map(|s| s.builder.take_copied()).sum::<u64>();
            }
        }
        copied
    }
}
