//! Selectors: the peers of rules, each kept once, with the identities that they select.
//!
//! The inverted index goes both ways. A new kind of pods asks for the selectors that may select it: those of its
//! namespace, those that need one of its labels, or one of its namespace's labels, and the few that need nothing. A new
//! selector asks the kinds' indexes the same questions. Blocks and nodes are asked of identities, by CIDR and by what is a
//! node's.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;
use heddle_model::{IpBlock, LabelSelector, Labels, Operator};
use heddle_tables::{Direction, IdentityId, Prefix};

use crate::policy::cidrs::{Cidrs, prefix};
use crate::policy::groups::GroupId;
use crate::policy::identities::{Class, Identities};
use crate::policy::pod_classes::{Divided, KindId, Kinds, PodKind};
use crate::policy::references::Relevance;

/// The number of a selector in use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SelectorId(u32);

/// Whose pods are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Those of one namespace.
    Namespace(Arc<str>),
    /// Those of all namespaces with such labels.
    Labels(LabelSelector),
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// Pods.
    Pods { scope: Scope, pods: LabelSelector },
    /// Pods that have a port of one of these names: all for whom a rule for everyone says more than for others.
    Named(BTreeSet<Arc<str>>),
    /// Addresses, those of pods too.
    Block(IpBlock),
    /// Nodes' own addresses.
    Nodes(LabelSelector),
}

impl Peer {
    /// Whether pods of a kind are selected as such.
    fn selects_pods(&self, kind: &PodKind, namespaces: &HashMap<Arc<str>, Labels>) -> bool {
        match self {
            Self::Pods { scope, pods } => {
                let in_scope = match scope {
                    Scope::Namespace(name) => *name == kind.namespace,
                    Scope::Labels(selector) if selector.is_everything() => true,
                    Scope::Labels(selector) => match namespaces.get(&kind.namespace) {
                        Some(labels) => selector.matches(labels),
                        None => selector.matches(&Labels::default()),
                    },
                };
                in_scope && pods.matches(&kind.labels)
            }
            Self::Named(names) => kind.ports.iter().any(|(name, ..)| names.contains(name)),
            Self::Nodes(_) | Self::Block(_) => false,
        }
    }

    /// Whether addresses of a class are selected, whoever has them.
    fn selects_addresses(&self, class: &Class) -> bool {
        match self {
            Self::Pods { .. } | Self::Named(_) => false,
            Self::Nodes(selector) => class.node.as_ref().is_some_and(|labels| selector.matches(labels)),
            Self::Block(block) => class.cidr.is_some_and(|inner| {
                let covers = |net| prefix(net).is_some_and(|p| p.covers(&inner));
                covers(block.cidr()) && !block.except().iter().any(|net| covers(*net))
            }),
        }
    }

    /// Whether it is pods that it selects, as against addresses.
    const fn is_of_pods(&self) -> bool {
        matches!(self, Self::Pods { .. } | Self::Named(_))
    }

    /// Where the index keeps it.
    fn places(&self) -> Vec<Place> {
        match self {
            Self::Block(block) => prefix(block.cidr()).map(Place::Cidr).into_iter().collect(),
            Self::Named(names) => names.iter().cloned().map(Place::Port).collect(),
            Self::Nodes(_) => vec![Place::Node],
            Self::Pods {
                scope: Scope::Namespace(name),
                pods,
            } => {
                let within = |label| Place::LabelWithin(Arc::clone(name), label);
                needed(pods)
                    .map(|labels| labels.map(within).collect())
                    .unwrap_or_else(|| vec![Place::Namespace(Arc::clone(name))])
            }
            Self::Pods {
                scope: Scope::Labels(namespaces),
                pods,
            } => needed(pods)
                .map(|labels| labels.map(Place::PodLabel).collect())
                .or_else(|| needed(namespaces).map(|labels| labels.map(Place::NamespaceLabel).collect()))
                .unwrap_or_else(|| vec![Place::Anywhere]),
        }
    }
}

type Label = (Arc<str>, Arc<str>);

/// Labels of which an object must have one to be selected; `None` if the selector has no such requirement.
fn needed(selector: &LabelSelector) -> Option<impl Iterator<Item = Label>> {
    let requirement = selector.requirements().iter().find(|r| r.operator() == Operator::In)?;
    Some(
        requirement
            .values()
            .iter()
            .map(|value| (Arc::clone(requirement.key()), Arc::clone(value))),
    )
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Namespace(Arc<str>),
    LabelWithin(Arc<str>, Label),
    PodLabel(Label),
    NamespaceLabel(Label),
    Port(Arc<str>),
    Cidr(Prefix),
    Node,
    Anywhere,
}

/// A selector in use.
#[derive(Debug)]
pub(crate) struct Selector {
    peer: Arc<Peer>,
    uses: u32,
    /// The identities that it selects.
    pub(crate) members: BTreeSet<IdentityId>,
    /// The groups of which some rule has it.
    pub(crate) groups: BTreeSet<(GroupId, Direction)>,
}

/// All selectors in use.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    slots: Vec<Option<Selector>>,
    known: HashMap<Arc<Peer>, SelectorId>,
    free: Vec<SelectorId>,
    index: HashMap<Place, BTreeSet<SelectorId>>,
    fresh: BTreeSet<SelectorId>,
}

impl Selectors {
    pub(crate) fn get(&self, id: SelectorId) -> Option<&Selector> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: SelectorId) -> Option<&mut Selector> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// The number of a peer, used once more. A new one has no members before [`take_fresh`](Self::take_fresh).
    pub(crate) fn acquire(&mut self, peer: Peer, relevance: &mut Relevance, cidrs: &mut Cidrs) -> SelectorId {
        if let Some(id) = self.known.get(&peer) {
            let id = *id;
            if let Some(selector) = self.get_mut(id) {
                selector.uses += 1;
            }
            return id;
        }
        if let Peer::Nodes(selector) = &peer {
            relevance.acquire_nodes(selector);
        }
        match &peer {
            Peer::Named(names) => names.iter().for_each(|name| relevance.acquire_port(name)),
            Peer::Block(block) => prefixes(block).for_each(|prefix| cidrs.acquire(prefix)),
            Peer::Pods { .. } | Peer::Nodes(_) => {}
        }
        let peer = Arc::new(peer);
        let selector = Selector {
            peer: Arc::clone(&peer),
            uses: 1,
            members: BTreeSet::new(),
            groups: BTreeSet::new(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id.0 as usize] = Some(selector);
                id
            }
            None => {
                self.slots.push(Some(selector));
                SelectorId(self.slots.len() as u32 - 1)
            }
        };
        for place in peer.places() {
            self.index.entry(place).or_default().insert(id);
        }
        self.known.insert(peer, id);
        self.fresh.insert(id);
        id
    }

    /// A selector is used once less; the last use takes it away, also from the identities that it selected. Gives what that
    /// does to parts.
    pub(crate) fn release(
        &mut self,
        id: SelectorId,
        relevance: &mut Relevance,
        cidrs: &mut Cidrs,
        identities: &mut Identities,
        kinds: &mut Kinds,
    ) -> Divided {
        let Some(selector) = self.get_mut(id) else {
            return Divided::default();
        };
        selector.uses -= 1;
        if selector.uses > 0 {
            return Divided::default();
        }
        let Some(selector) = self.slots[id.0 as usize].take() else {
            return Divided::default();
        };
        match &*selector.peer {
            Peer::Nodes(selector) => relevance.release_nodes(selector),
            Peer::Named(names) => names.iter().for_each(|name| relevance.release_port(name)),
            Peer::Block(block) => prefixes(block).for_each(|prefix| cidrs.release(prefix)),
            Peer::Pods { .. } => {}
        }
        for place in selector.peer.places() {
            if let Some(set) = self.index.get_mut(&place) {
                set.remove(&id);
                if set.is_empty() {
                    self.index.remove(&place);
                }
            }
        }
        for member in selector.members {
            if let Some(identity) = identities.get_mut(member) {
                identity.matched.retain(|m| *m != id);
            }
        }
        self.known.remove(&selector.peer);
        self.fresh.remove(&id);
        self.free.push(id);
        if selector.peer.is_of_pods() {
            kinds.lose(id)
        } else {
            Divided::default()
        }
    }

    /// The selectors that were made since the last call of [`take_fresh`](Self::take_fresh).
    pub(crate) fn fresh(&self) -> BTreeSet<SelectorId> {
        self.fresh.clone()
    }

    /// The selectors that were made since the last call.
    pub(crate) fn take_fresh(&mut self) -> BTreeSet<SelectorId> {
        std::mem::take(&mut self.fresh)
    }

    /// The selectors of pods that select a kind, sorted.
    pub(crate) fn of_kind(&self, kind: &PodKind, namespaces: &HashMap<Arc<str>, Labels>) -> Vec<SelectorId> {
        let mut found = Vec::new();
        let mut look = |place: Place| {
            for id in self.index.get(&place).into_iter().flatten() {
                if self.get(*id).is_some_and(|s| s.peer.selects_pods(kind, namespaces)) {
                    found.push(*id);
                }
            }
        };
        if self.index.is_empty() {
            return found;
        }
        look(Place::Anywhere);
        look(Place::Namespace(Arc::clone(&kind.namespace)));
        for (key, value) in kind.labels.iter() {
            let label = (Arc::clone(key), Arc::clone(value));
            look(Place::LabelWithin(Arc::clone(&kind.namespace), label.clone()));
            look(Place::PodLabel(label));
        }
        for (name, ..) in &kind.ports {
            look(Place::Port(Arc::clone(name)));
        }
        for (key, value) in namespaces.get(&kind.namespace).into_iter().flat_map(Labels::iter) {
            look(Place::NamespaceLabel((Arc::clone(key), Arc::clone(value))));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The selectors that select a class of addresses, sorted, beside those of its pods.
    pub(crate) fn of_addresses(&self, class: &Class, cidrs: &Cidrs) -> Vec<SelectorId> {
        let mut found = Vec::new();
        let mut look = |place: Place| {
            for id in self.index.get(&place).into_iter().flatten() {
                if self.get(*id).is_some_and(|s| s.peer.selects_addresses(class)) {
                    found.push(*id);
                }
            }
        };
        if class.node.is_some() {
            look(Place::Node);
        }
        if let Some(cidr) = class.cidr {
            for (covering, _) in cidrs.covering(cidr) {
                look(Place::Cidr(covering));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The kinds that a selector selects, by the kinds' indexes; `None` if it is not pods that it selects.
    pub(crate) fn kinds_of(
        &self,
        id: SelectorId,
        kinds: &Kinds,
        namespaces: &HashMap<Arc<str>, Labels>,
    ) -> Option<Vec<KindId>> {
        let peer = &self.get(id)?.peer;
        let selected = |id: &KindId| {
            kinds
                .get(*id)
                .is_some_and(|kind| peer.selects_pods(&kind.what, namespaces))
        };
        let mut found: Vec<KindId> = match peer.as_ref() {
            Peer::Block(_) | Peer::Nodes(_) => return None,
            Peer::Named(names) => names
                .iter()
                .flat_map(|name| kinds.with_port(name))
                .filter(selected)
                .collect(),
            Peer::Pods {
                scope: Scope::Namespace(name),
                pods,
            } => {
                let labels: Option<Vec<Label>> = needed(pods).map(Iterator::collect);
                let having = |labels: &Vec<Label>| labels.iter().map(|label| kinds.count_with(label)).sum::<usize>();
                match labels {
                    Some(labels) if having(&labels) < kinds.count_in(name) => {
                        let having = labels.iter().flat_map(|label| kinds.with_label(label));
                        having.filter(selected).collect()
                    }
                    _ => kinds.in_namespace(name).filter(selected).collect(),
                }
            }
            Peer::Pods {
                scope: Scope::Labels(wanted),
                pods,
            } => match needed(pods) {
                Some(labels) => {
                    let labels: Vec<Label> = labels.collect();
                    let having = labels.iter().flat_map(|label| kinds.with_label(label));
                    having.filter(selected).collect()
                }
                None => {
                    let none = Labels::default();
                    let all = kinds.namespaces();
                    let scope = all.filter(|name| wanted.matches(namespaces.get(*name).unwrap_or(&none)));
                    let within = scope.flat_map(|name| kinds.in_namespace(name));
                    let selected = |id: &KindId| kinds.get(*id).is_some_and(|kind| pods.matches(&kind.what.labels));
                    within.filter(selected).collect()
                }
            },
        };
        found.sort_unstable();
        found.dedup();
        Some(found)
    }

    /// The identities that a selector of addresses selects, by the identities' indexes.
    pub(crate) fn addresses_of(&self, id: SelectorId, identities: &Identities) -> BTreeSet<IdentityId> {
        let Some(selector) = self.get(id) else {
            return BTreeSet::new();
        };
        let peer = &selector.peer;
        let selected = |id: &IdentityId| {
            identities
                .get(*id)
                .is_some_and(|identity| peer.selects_addresses(&identity.class))
        };
        match peer.as_ref() {
            Peer::Pods { .. } | Peer::Named(_) => BTreeSet::new(),
            Peer::Nodes(_) => identities.of_nodes().filter(selected).collect(),
            Peer::Block(block) => prefix(block.cidr())
                .into_iter()
                .flat_map(|p| identities.in_cidr(p))
                .filter(selected)
                .collect(),
        }
    }
}

/// The CIDRs that a block speaks of.
fn prefixes(block: &IpBlock) -> impl Iterator<Item = Prefix> {
    let nets = std::iter::once(block.cidr()).chain(block.except().iter().copied());
    nets.filter_map(prefix)
}

#[cfg(test)]
impl Selectors {
    /// Whether none is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.index.is_empty()
    }
}
