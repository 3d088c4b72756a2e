//! Groups: endpoints that the same policies select, and the one compiled policy that they share.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use heddle_model::{PolicyPorts, Protocol};
use heddle_tables::{Answer, Direction, EndpointPolicy, IdentityNo, PolicySideBuilder, RuleNo};

use crate::identities::{Identities, Identity};
use crate::policies::{Active, PolicyId, Rule, Tier};
use crate::said::Said;
use crate::selectors::{SelectorNo, Selectors};

/// The number of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct GroupNo(u32);

/// A named port: name, protocol, number.
pub(crate) type NamedPort = (Arc<str>, Protocol, u16);

/// Identities whose cells are made already, by the rules that they were made of.
type Alike = HashMap<Vec<usize>, IdentityNo>;

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
    /// The active policies whose rules these are, in order, and the place of the rule within.
    rules: Vec<(usize, usize)>,
    by_selector: HashMap<SelectorNo, Vec<usize>>,
    everyone: Vec<usize>,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    active: Vec<Arc<Active>>,
    sides: [Side; 2],
    pub(crate) uses: u32,
    changed: bool,
    /// The policy as it was last handed out.
    pub(crate) policy: Arc<EndpointPolicy>,
}

impl Group {
    fn new(key: GroupKey, active: Vec<Arc<Active>>, inherited: [Option<PolicySideBuilder>; 2]) -> Self {
        let sides = Direction::BOTH.map(|direction| Side::new(direction, &active));
        let policy = Arc::new(EndpointPolicy::open());
        let mut group = Self {
            key,
            active,
            sides,
            uses: 0,
            changed: true,
            policy,
        };
        for (direction, inherited) in Direction::BOTH.into_iter().zip(inherited) {
            if let Some(builder) = inherited {
                group.sides[direction.index()].builder = builder;
                continue;
            }
            let everyone = group.side(direction).everyone.clone();
            let answer = group.answer(direction, &everyone, None);
            group.sides[direction.index()].builder.set_base(answer);
        }
        group
    }

    const fn side(&self, direction: Direction) -> &Side {
        &self.sides[direction.index()]
    }

    /// The selectors that its rules have in one direction.
    fn selectors(&self, direction: Direction) -> impl Iterator<Item = SelectorNo> {
        self.side(direction).by_selector.keys().copied()
    }

    fn rule(&self, direction: Direction, at: usize) -> Option<(Tier, &Rule)> {
        let (policy, rule) = *self.side(direction).rules.get(at)?;
        let active = self.active.get(policy)?;
        Some((active.tier, active.sides[direction.index()].rules.get(rule)?))
    }

    /// Makes the cell of an identity anew. `None`: the identity is gone. `alike` are identities whose cells are made, by
    /// the rules that they were made of.
    fn refresh(&mut self, direction: Direction, no: IdentityNo, identity: Option<&Identity>, alike: &mut Alike) {
        let side = self.side(direction);
        let own = identity
            .into_iter()
            .flat_map(|i| &i.matched)
            .filter_map(|s| side.by_selector.get(s))
            .flatten();
        let mut rules: Vec<usize> = own.copied().collect();
        if rules.is_empty() {
            self.changed |= self.sides[direction.index()].builder.set(no, Answer::Default);
            return;
        }
        rules.extend(&side.everyone);
        rules.sort_unstable();
        rules.dedup();
        // What a rule says may depend on the peer's named ports.
        let depends = direction == Direction::Egress && identity.is_some_and(|i| !i.ports().is_empty());
        if !depends && let Some(other) = alike.get(&rules) {
            self.changed |= self.sides[direction.index()].builder.set_like(no, *other);
            return;
        }
        let answer = self.answer(direction, &rules, identity);
        self.changed |= self.sides[direction.index()].builder.set(no, answer);
        if !depends {
            alike.insert(rules, no);
        }
    }

    /// What the rules, in their order, say of a peer.
    fn answer(&self, direction: Direction, rules: &[usize], peer: Option<&Identity>) -> Answer {
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

impl Side {
    fn new(direction: Direction, active: &[Arc<Active>]) -> Self {
        let default: Option<RuleNo> = active.iter().find_map(|a| a.sides[direction.index()].default);
        let mut side = Self {
            builder: default.map_or_else(PolicySideBuilder::open, PolicySideBuilder::isolated),
            rules: Vec::new(),
            by_selector: HashMap::default(),
            everyone: Vec::new(),
        };
        for (policy, active) in active.iter().enumerate() {
            // "v1.NetworkPolicy always makes a final decision for selected pods."
            if active.tier == Tier::Baseline && default.is_some() {
                continue;
            }
            for (place, rule) in active.sides[direction.index()].rules.iter().enumerate() {
                let at = side.rules.len();
                side.rules.push((policy, place));
                for selector in &rule.peers {
                    side.by_selector.entry(*selector).or_default().push(at);
                }
                if rule.everyone {
                    side.everyone.push(at);
                }
            }
        }
        side
    }
}

/// What a group of nearly the same policies as another one has from it: all cells but those that the others speak of.
#[derive(Debug)]
struct Inheritance {
    /// The selectors of policies that the other group did not have.
    came: BTreeSet<SelectorNo>,
    /// Whom the policies that it had besides selected.
    touched: BTreeSet<IdentityNo>,
}

impl Inheritance {
    /// `None` where what is said of everyone, or by default, is another.
    fn of(direction: Direction, before: &Group, active: &[Arc<Active>], selectors: &Selectors) -> Option<Self> {
        let without = |all: &[Arc<Active>], others: &[Arc<Active>]| -> Vec<Arc<Active>> {
            let others: HashSet<*const Active> = others.iter().map(Arc::as_ptr).collect();
            let those = all.iter().filter(|one| !others.contains(&Arc::as_ptr(one)));
            those.cloned().collect()
        };
        let default = |all: &[Arc<Active>]| all.iter().find_map(|a| a.sides[direction.index()].default);
        if default(&before.active) != default(active) {
            return None;
        }
        let (went, came) = (without(&before.active, active), without(active, &before.active));
        let rules = |all: &[Arc<Active>]| -> Option<BTreeSet<SelectorNo>> {
            let rules = || all.iter().flat_map(|a| &a.sides[direction.index()].rules);
            let peers = || rules().flat_map(|rule| rule.peers.iter().copied()).collect();
            (!rules().any(|rule| rule.everyone)).then(peers)
        };
        let touched = rules(&went)?
            .into_iter()
            .filter_map(|s| selectors.get(s))
            .flat_map(|s| s.members.iter().copied())
            .collect();
        Some(Self {
            came: rules(&came)?,
            touched,
        })
    }
}

/// All groups in use.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Option<Group>>,
    known: HashMap<GroupKey, GroupNo>,
    free: Vec<GroupNo>,
    fresh: Vec<(GroupNo, [Option<Inheritance>; 2])>,
    touched: BTreeSet<GroupNo>,
}

impl Groups {
    pub(crate) fn get(&self, no: GroupNo) -> Option<&Group> {
        self.slots.get(no.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, no: GroupNo) -> Option<&mut Group> {
        self.slots.get_mut(no.0 as usize)?.as_mut()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The group of a key, used once more.
    pub(crate) fn reuse(&mut self, key: &GroupKey) -> Option<GroupNo> {
        let no = *self.known.get(key)?;
        self.get_mut(no)?.uses += 1;
        Some(no)
    }

    /// Makes a group, used once, with the cells that it can have from the one before it. The others are filled by
    /// [`fill`](Self::fill).
    pub(crate) fn create(
        &mut self,
        key: GroupKey,
        active: Vec<Arc<Active>>,
        before: Option<GroupNo>,
        selectors: &mut Selectors,
    ) -> GroupNo {
        let before = before.and_then(|no| self.get(no));
        let inherited = Direction::BOTH.map(|direction| {
            let before = before.filter(|before| before.key.ports == key.ports)?;
            Some((before, Inheritance::of(direction, before, &active, selectors)?))
        });
        let builders = inherited.each_ref().map(|inherited| {
            let (before, _) = inherited.as_ref()?;
            Some(before)
        });
        let builders: [Option<PolicySideBuilder>; 2] =
            Direction::BOTH.map(|d| builders[d.index()].map(|before| before.side(d).builder.clone()));
        let inherited = inherited.map(|inherited| inherited.map(|(_, inheritance)| inheritance));
        let mut group = Group::new(key.clone(), active, builders);
        group.uses = 1;
        let no = self.free.pop().unwrap_or(GroupNo(self.slots.len() as u32));
        for direction in Direction::BOTH {
            for selector in group.selectors(direction) {
                if let Some(selector) = selectors.get_mut(selector) {
                    selector.groups.insert((no, direction));
                }
            }
        }
        match self.slots.get_mut(no.0 as usize) {
            Some(slot) => *slot = Some(group),
            None => self.slots.push(Some(group)),
        }
        self.known.insert(key, no);
        self.fresh.push((no, inherited));
        self.touched.insert(no);
        no
    }

    /// A group is used once less; the last use takes it away and gives back the policies that it was made of.
    pub(crate) fn release(&mut self, no: GroupNo, selectors: &mut Selectors) -> Vec<PolicyId> {
        let Some(group) = self.get_mut(no) else {
            return Vec::new();
        };
        group.uses -= 1;
        if group.uses > 0 {
            return Vec::new();
        }
        let Some(group) = self.slots[no.0 as usize].take() else {
            return Vec::new();
        };
        for direction in Direction::BOTH {
            for selector in group.selectors(direction) {
                if let Some(selector) = selectors.get_mut(selector) {
                    selector.groups.remove(&(no, direction));
                }
            }
        }
        self.known.remove(&group.key);
        self.touched.remove(&no);
        self.free.push(no);
        group.key.policies
    }

    /// Makes the cells of new groups.
    pub(crate) fn fill(&mut self, selectors: &Selectors, identities: &Identities) {
        for (no, inherited) in std::mem::take(&mut self.fresh) {
            let Some(group) = self.get_mut(no) else { continue };
            for (direction, inherited) in Direction::BOTH.into_iter().zip(inherited) {
                let of = |s| selectors.get(s).into_iter().flat_map(|s| s.members.iter().copied());
                let members: BTreeSet<IdentityNo> = match inherited {
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
    pub(crate) fn refresh(&mut self, no: GroupNo, direction: Direction, who: IdentityNo, identity: Option<&Identity>) {
        if let Some(group) = self.get_mut(no) {
            group.refresh(direction, who, identity, &mut Alike::default());
            self.touched.insert(no);
        }
    }

    /// Hands out the policies of the groups that changed; says how many pages were copied for them.
    pub(crate) fn hand_out(&mut self) -> u64 {
        let mut copied = 0;
        for no in std::mem::take(&mut self.touched) {
            if let Some(group) = self.get_mut(no) {
                group.hand_out();
                copied += group.sides.iter_mut().map(|s| s.builder.take_copied()).sum::<u64>();
            }
        }
        copied
    }
}
