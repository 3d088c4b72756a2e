//! Selectors: the peers of rules with the identities that they match. Equal peers of several rules are one selector.
//!
//! The index works in both directions. For a new pod class, it returns the selectors that may match it: those under its
//! namespace, each of its labels, each of its namespace's labels and each of its port names, and the few that require
//! none of these. For a new selector, pod classes are looked up under the same keys. Blocks and node selectors match
//! identities by CIDR and by node labels instead.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;
use heddle_model::Labels;
use heddle_tables::{Direction, IdentityId};

use crate::policy::cidrs::Cidrs;
use crate::policy::equivalence::Refinement;
use crate::policy::identities::{Identities, IdentityClass};
use crate::policy::ids::{GroupId, Label, PodClassId, SelectorId};
use crate::policy::peer::{IndexKey, PeerSelector, Scope, prefixes, required_labels};
use crate::policy::pod_classes::{PodClasses, PodTraits};
use crate::policy::references::References;
use crate::prefix::to_prefix;

/// A selector in use.
#[derive(Debug)]
pub(crate) struct Selector {
    peer: Arc<PeerSelector>,
    uses: u32,
    /// The identities that it matches.
    pub(crate) members: BTreeSet<IdentityId>,
    /// The groups and directions with a rule that contains it.
    pub(crate) groups: BTreeSet<(GroupId, Direction)>,
}

/// All selectors in use, with the index that finds them.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    slots: Vec<Option<Selector>>,
    by_peer: HashMap<Arc<PeerSelector>, SelectorId>,
    free: Vec<SelectorId>,
    index: HashMap<IndexKey, BTreeSet<SelectorId>>,
    new: BTreeSet<SelectorId>,
}

impl Selectors {
    pub(crate) fn get(&self, id: SelectorId) -> Option<&Selector> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: SelectorId) -> Option<&mut Selector> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Returns the selector of a peer and counts one more use of it. A new one has no members before the next rebuild.
    pub(crate) fn acquire(&mut self, peer: PeerSelector, references: &mut References, cidrs: &mut Cidrs) -> SelectorId {
        if let Some(id) = self.by_peer.get(&peer) {
            let id = *id;
            if let Some(selector) = self.get_mut(id) {
                selector.uses += 1;
            }
            return id;
        }
        if let PeerSelector::Nodes { nodes, .. } = &peer {
            references.acquire_nodes(nodes);
        }
        match &peer {
            PeerSelector::HavingPort(names) => names.iter().for_each(|name| references.acquire_port(name)),
            PeerSelector::Block(block) => prefixes(block).for_each(|prefix| cidrs.acquire(prefix)),
            PeerSelector::Pods { .. } | PeerSelector::Nodes { .. } => {}
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
        for key in peer.index_keys() {
            self.index.entry(key).or_default().insert(id);
        }
        self.by_peer.insert(peer, id);
        self.new.insert(id);
        id
    }

    /// Counts one use less. The last one removes the selector, also from the identities that it matched. Returns the effect
    /// on equivalence classes.
    pub(crate) fn release(
        &mut self,
        id: SelectorId,
        references: &mut References,
        cidrs: &mut Cidrs,
        identities: &mut Identities,
        pod_classes: &mut PodClasses,
    ) -> Refinement {
        let Some(selector) = self.get_mut(id) else {
            return Refinement::default();
        };
        selector.uses -= 1;
        if selector.uses > 0 {
            return Refinement::default();
        }
        let Some(selector) = self.slots[id.0 as usize].take() else {
            return Refinement::default();
        };
        match &*selector.peer {
            PeerSelector::Nodes { nodes, .. } => references.release_nodes(nodes),
            PeerSelector::HavingPort(names) => names.iter().for_each(|name| references.release_port(name)),
            PeerSelector::Block(block) => prefixes(block).for_each(|prefix| cidrs.release(prefix)),
            PeerSelector::Pods { .. } => {}
        }
        for key in selector.peer.index_keys() {
            if let Some(set) = self.index.get_mut(&key) {
                set.remove(&id);
                if set.is_empty() {
                    self.index.remove(&key);
                }
            }
        }
        for member in selector.members {
            if let Some(identity) = identities.get_mut(member) {
                identity.matched.retain(|m| *m != id);
            }
        }
        self.by_peer.remove(&selector.peer);
        self.new.remove(&id);
        self.free.push(id);
        if selector.peer.is_of_pods() {
            pod_classes.remove_selector(id)
        } else {
            Refinement::default()
        }
    }

    /// Returns the selectors that were made since the last call of [`take_new`](Self::take_new).
    pub(crate) fn new_selectors(&self) -> BTreeSet<SelectorId> {
        self.new.clone()
    }

    /// Returns the selectors that were made since the last call.
    pub(crate) fn take_new(&mut self) -> BTreeSet<SelectorId> {
        std::mem::take(&mut self.new)
    }

    /// Returns the pod selectors that match some traits, sorted.
    pub(crate) fn matching_pods(&self, traits: &PodTraits, namespaces: &HashMap<Arc<str>, Labels>) -> Vec<SelectorId> {
        let mut found = Vec::new();
        let mut look = |key: IndexKey| {
            for id in self.index.get(&key).into_iter().flatten() {
                if self.get(*id).is_some_and(|s| s.peer.matches_pods(traits, namespaces)) {
                    found.push(*id);
                }
            }
        };
        if self.index.is_empty() {
            return found;
        }
        if traits.labels.is_unreadable() || namespaces.get(&traits.namespace).is_some_and(Labels::is_unreadable) {
            // The index finds selectors by labels, so each one is asked.
            let all = (0..).map(SelectorId).zip(&self.slots);
            let matching =
                |slot: &Option<Selector>| slot.as_ref().is_some_and(|s| s.peer.matches_pods(traits, namespaces));
            return all.filter(|(_, slot)| matching(slot)).map(|(id, _)| id).collect();
        }
        look(IndexKey::Anywhere);
        look(IndexKey::Namespace(Arc::clone(&traits.namespace)));
        for (key, value) in traits.labels.iter() {
            let label = (Arc::clone(key), Arc::clone(value));
            look(IndexKey::LabelWithin(Arc::clone(&traits.namespace), label.clone()));
            look(IndexKey::PodLabel(label));
        }
        for (name, ..) in &traits.ports {
            look(IndexKey::Port(Arc::clone(name)));
        }
        for (key, value) in namespaces.get(&traits.namespace).into_iter().flat_map(Labels::iter) {
            look(IndexKey::NamespaceLabel((Arc::clone(key), Arc::clone(value))));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns the block and node selectors that match a class of addresses, sorted.
    pub(crate) fn matching_addresses(&self, class: &IdentityClass, cidrs: &Cidrs) -> Vec<SelectorId> {
        let mut found = Vec::new();
        let mut look = |key: IndexKey| {
            for id in self.index.get(&key).into_iter().flatten() {
                if self.get(*id).is_some_and(|s| s.peer.matches_addresses(class)) {
                    found.push(*id);
                }
            }
        };
        if class.node.is_some() {
            look(IndexKey::Node);
        }
        if let Some(cidr) = class.cidr {
            for (covering, _) in cidrs.covering(cidr) {
                look(IndexKey::Cidr(covering));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns the pod classes that a selector matches; `None` if it selects addresses.
    pub(crate) fn pod_classes_of(
        &self,
        id: SelectorId,
        pod_classes: &PodClasses,
        namespaces: &HashMap<Arc<str>, Labels>,
    ) -> Option<Vec<PodClassId>> {
        let peer = &self.get(id)?.peer;
        let selected = |id: &PodClassId| {
            pod_classes
                .get(*id)
                .is_some_and(|class| peer.matches_pods(&class.traits, namespaces))
        };
        let mut found: Vec<PodClassId> = match peer.as_ref() {
            PeerSelector::Block(_) | PeerSelector::Nodes { .. } => return None,
            PeerSelector::HavingPort(names) => names
                .iter()
                .flat_map(|name| pod_classes.with_port(name))
                .filter(selected)
                .collect(),
            PeerSelector::Pods {
                scope: Scope::Namespace(name),
                pods,
                ..
            } => {
                let labels: Option<Vec<Label>> = required_labels(pods).map(Iterator::collect);
                let having =
                    |labels: &Vec<Label>| labels.iter().map(|label| pod_classes.count_with(label)).sum::<usize>();
                match labels {
                    Some(labels) if having(&labels) < pod_classes.count_in(name) => {
                        let having = labels.iter().flat_map(|label| pod_classes.with_label(label));
                        having.filter(selected).collect()
                    }
                    _ => pod_classes.in_namespace(name).filter(selected).collect(),
                }
            }
            PeerSelector::Pods {
                scope: Scope::Labels(wanted),
                pods,
                ..
            } => match required_labels(pods) {
                Some(labels) => {
                    let labels: Vec<Label> = labels.collect();
                    let having = labels.iter().flat_map(|label| pod_classes.with_label(label));
                    having.filter(selected).collect()
                }
                None => {
                    let none = Labels::default();
                    let all = pod_classes.namespaces();
                    let scope = all.filter(|name| wanted.matches(namespaces.get(*name).unwrap_or(&none)));
                    let within = scope.flat_map(|name| pod_classes.in_namespace(name));
                    let selected = |id: &PodClassId| {
                        pod_classes
                            .get(*id)
                            .is_some_and(|class| pods.matches(&class.traits.labels))
                    };
                    within.filter(selected).collect()
                }
            },
        };
        if let PeerSelector::Pods { denies: true, .. } = peer.as_ref() {
            // The index finds pod classes by labels, so it lacks those whose labels cannot be read.
            let unreadable = Labels::unreadable();
            let labels = unreadable
                .iter()
                .map(|(key, value)| (Arc::clone(key), Arc::clone(value)));
            for label in labels {
                found.extend(pod_classes.with_label(&label).filter(selected));
            }
            let scopes = namespaces.iter().filter(|(_, labels)| labels.is_unreadable());
            let within = scopes.flat_map(|(name, _)| pod_classes.in_namespace(name));
            found.extend(within.filter(selected));
        }
        found.sort_unstable();
        found.dedup();
        Some(found)
    }

    /// Returns the identities that a block or node selector matches.
    pub(crate) fn identities_of(&self, id: SelectorId, identities: &Identities) -> BTreeSet<IdentityId> {
        let Some(selector) = self.get(id) else {
            return BTreeSet::new();
        };
        let peer = &selector.peer;
        let selected = |id: &IdentityId| {
            identities
                .get(*id)
                .is_some_and(|identity| peer.matches_addresses(&identity.class))
        };
        match peer.as_ref() {
            PeerSelector::Pods { .. } | PeerSelector::HavingPort(_) => BTreeSet::new(),
            PeerSelector::Nodes { .. } => identities.of_nodes().filter(selected).collect(),
            PeerSelector::Block(block) => to_prefix(block.cidr())
                .into_iter()
                .flat_map(|p| identities.in_cidr(p))
                .filter(selected)
                .collect(),
        }
    }
}

#[cfg(test)]
impl Selectors {
    /// Returns true if no selector is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_peer.is_empty() && self.index.is_empty()
    }
}
