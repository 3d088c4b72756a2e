//! Selectors: the peers of rules, each kept once, with the identities that they select.
//!
//! The inverted index goes both ways. A new identity asks for the selectors that may select it: those of its
//! namespace, those that need one of its labels, or one of its namespace's labels, those of the CIDRs that cover it, and
//! the few that need nothing. A new selector asks the identities' indexes the same questions.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use heddle_model::{IpBlock, LabelSelector, Labels, Operator};
use heddle_tables::{Direction, IdentityNo, Prefix};

use crate::cidrs::{Cidrs, prefix};
use crate::groups::GroupNo;
use crate::identities::{Class, Identities};
use crate::relevance::{Feature, Relevance};

/// The number of a selector in use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SelectorNo(u32);

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
    fn selects(&self, class: &Class, namespaces: &HashMap<Arc<str>, Labels>) -> bool {
        match self {
            Self::Pods { scope, pods } => class.pod.as_ref().is_some_and(|pod| {
                let in_scope = match scope {
                    Scope::Namespace(name) => *name == pod.namespace,
                    Scope::Labels(selector) => match namespaces.get(&pod.namespace) {
                        Some(labels) => selector.matches(labels),
                        None => selector.matches(&Labels::default()),
                    },
                };
                in_scope && pods.matches(&pod.labels)
            }),
            Self::Named(names) => class
                .pod
                .as_ref()
                .is_some_and(|pod| pod.ports.iter().any(|(name, ..)| names.contains(name))),
            Self::Nodes(selector) => class.node.as_ref().is_some_and(|labels| selector.matches(labels)),
            Self::Block(block) => class.cidr.is_some_and(|inner| {
                let covers = |net| prefix(net).is_some_and(|p| p.covers(&inner));
                covers(block.cidr()) && !block.except().iter().any(|net| covers(*net))
            }),
        }
    }

    /// Where the index keeps it.
    fn places(&self) -> Vec<Place> {
        match self {
            Self::Block(block) => prefix(block.cidr()).map(Place::Cidr).into_iter().collect(),
            Self::Named(names) => names.iter().cloned().map(Place::Port).collect(),
            Self::Nodes(_) => vec![Place::Node],
            Self::Pods {
                scope: Scope::Namespace(name),
                ..
            } => vec![Place::Namespace(Arc::clone(name))],
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
    pub(crate) members: BTreeSet<IdentityNo>,
    /// The groups of which some rule has it.
    pub(crate) groups: BTreeSet<(GroupNo, Direction)>,
}

/// All selectors in use.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    slots: Vec<Option<Selector>>,
    known: HashMap<Arc<Peer>, SelectorNo>,
    free: Vec<SelectorNo>,
    index: HashMap<Place, BTreeSet<SelectorNo>>,
    fresh: BTreeSet<SelectorNo>,
}

impl Selectors {
    pub(crate) fn get(&self, no: SelectorNo) -> Option<&Selector> {
        self.slots.get(no.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, no: SelectorNo) -> Option<&mut Selector> {
        self.slots.get_mut(no.0 as usize)?.as_mut()
    }

    /// The number of a peer, used once more. A new one has no members before [`take_fresh`](Self::take_fresh).
    pub(crate) fn acquire(&mut self, peer: Peer, relevance: &mut Relevance, cidrs: &mut Cidrs) -> SelectorNo {
        if let Some(no) = self.known.get(&peer) {
            let no = *no;
            if let Some(selector) = self.get_mut(no) {
                selector.uses += 1;
            }
            return no;
        }
        if let Peer::Nodes(selector) = &peer {
            relevance.acquire_nodes(selector);
        }
        speak_of(
            &peer,
            |feature| relevance.acquire(feature),
            |prefix| cidrs.acquire(prefix),
        );
        let peer = Arc::new(peer);
        let selector = Selector {
            peer: Arc::clone(&peer),
            uses: 1,
            members: BTreeSet::new(),
            groups: BTreeSet::new(),
        };
        let no = match self.free.pop() {
            Some(no) => {
                self.slots[no.0 as usize] = Some(selector);
                no
            }
            None => {
                self.slots.push(Some(selector));
                SelectorNo(self.slots.len() as u32 - 1)
            }
        };
        for place in peer.places() {
            self.index.entry(place).or_default().insert(no);
        }
        self.known.insert(peer, no);
        self.fresh.insert(no);
        no
    }

    /// A selector is used once less; the last use takes it away, also from the identities that it selected.
    pub(crate) fn release(
        &mut self,
        no: SelectorNo,
        relevance: &mut Relevance,
        cidrs: &mut Cidrs,
        identities: &mut Identities,
    ) {
        let Some(selector) = self.get_mut(no) else { return };
        selector.uses -= 1;
        if selector.uses > 0 {
            return;
        }
        let Some(selector) = self.slots[no.0 as usize].take() else {
            return;
        };
        if let Peer::Nodes(selector) = &*selector.peer {
            relevance.release_nodes(selector);
        }
        speak_of(
            &selector.peer,
            |feature| relevance.release(feature),
            |prefix| cidrs.release(prefix),
        );
        for place in selector.peer.places() {
            if let Some(set) = self.index.get_mut(&place) {
                set.remove(&no);
                if set.is_empty() {
                    self.index.remove(&place);
                }
            }
        }
        for member in selector.members {
            if let Some(identity) = identities.get_mut(member) {
                identity.matched.retain(|m| *m != no);
            }
        }
        self.known.remove(&selector.peer);
        self.fresh.remove(&no);
        self.free.push(no);
    }

    /// The selectors that were made since the last call.
    pub(crate) fn take_fresh(&mut self) -> BTreeSet<SelectorNo> {
        std::mem::take(&mut self.fresh)
    }

    /// The selectors that select a class, sorted.
    pub(crate) fn matching(
        &self,
        class: &Class,
        namespaces: &HashMap<Arc<str>, Labels>,
        cidrs: &Cidrs,
    ) -> Vec<SelectorNo> {
        let mut found = BTreeSet::new();
        let mut look = |place: &Place| {
            for no in self.index.get(place).into_iter().flatten() {
                if self.get(*no).is_some_and(|s| s.peer.selects(class, namespaces)) {
                    found.insert(*no);
                }
            }
        };
        if let Some(pod) = &class.pod {
            look(&Place::Anywhere);
            look(&Place::Namespace(Arc::clone(&pod.namespace)));
            for (key, value) in pod.labels.iter() {
                look(&Place::PodLabel((Arc::clone(key), Arc::clone(value))));
            }
            for (name, ..) in &pod.ports {
                look(&Place::Port(Arc::clone(name)));
            }
            for (key, value) in namespaces.get(&pod.namespace).into_iter().flat_map(Labels::iter) {
                look(&Place::NamespaceLabel((Arc::clone(key), Arc::clone(value))));
            }
        }
        if class.node.is_some() {
            look(&Place::Node);
        }
        if let Some(cidr) = class.cidr {
            for (covering, _) in cidrs.covering(cidr) {
                look(&Place::Cidr(covering));
            }
        }
        found.into_iter().collect()
    }

    /// The identities that a selector selects, by the identities' indexes.
    pub(crate) fn search(
        &self,
        no: SelectorNo,
        identities: &Identities,
        namespaces: &HashMap<Arc<str>, Labels>,
    ) -> BTreeSet<IdentityNo> {
        let Some(selector) = self.get(no) else {
            return BTreeSet::new();
        };
        let peer = &selector.peer;
        let selected = |id: &IdentityNo| {
            identities
                .get(*id)
                .is_some_and(|identity| peer.selects(&identity.class, namespaces))
        };
        match peer.as_ref() {
            Peer::Named(names) => names
                .iter()
                .flat_map(|name| identities.with_port(name))
                .filter(selected)
                .collect(),
            Peer::Nodes(_) => identities.of_nodes().filter(selected).collect(),
            Peer::Block(block) => prefix(block.cidr())
                .into_iter()
                .flat_map(|p| identities.in_cidr(p))
                .filter(selected)
                .collect(),
            Peer::Pods {
                scope: Scope::Namespace(name),
                ..
            } => identities.in_namespace(name).filter(selected).collect(),
            Peer::Pods {
                scope: Scope::Labels(wanted),
                pods,
            } => match needed(pods) {
                Some(labels) => labels
                    .flat_map(|(k, v)| identities.with_label(&k, &v).collect::<Vec<_>>())
                    .filter(selected)
                    .collect(),
                None => {
                    let none = Labels::default();
                    let all = identities.namespaces();
                    let scope = all.filter(|name| wanted.matches(namespaces.get(*name).unwrap_or(&none)));
                    scope
                        .flat_map(|name| identities.in_namespace(name))
                        .filter(selected)
                        .collect()
                }
            },
        }
    }
}

/// Tells which labels and names of ports of pods and which CIDRs a peer speaks of.
fn speak_of(peer: &Peer, mut feature: impl FnMut(Feature), mut cidr: impl FnMut(Prefix)) {
    match peer {
        Peer::Pods { pods, .. } => {
            for requirement in pods.requirements() {
                feature(Feature::Label(Arc::clone(requirement.key())));
            }
        }
        Peer::Named(names) => names.iter().cloned().map(Feature::Port).for_each(feature),
        // Those are labels of nodes, not of pods.
        Peer::Nodes(_) => {}
        Peer::Block(block) => {
            for net in std::iter::once(block.cidr()).chain(block.except().iter().copied()) {
                if let Some(prefix) = prefix(net) {
                    cidr(prefix);
                }
            }
        }
    }
}

#[cfg(test)]
impl Selectors {
    /// Whether none is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.index.is_empty()
    }
}
