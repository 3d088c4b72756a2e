//! Pod classes, and the equivalence classes that active policies divide them into.
//!
//! A **pod class** holds the pods that no policy could ever tell apart: one namespace, equal labels, equal named ports.
//! The pods of a Deployment are one class. Selectors are evaluated once per class, not once per pod. An **equivalence
//! class** holds the pod classes that no *active* policy tells apart: the same selectors match them, and they have the
//! same named ports that policies refer to (their [`Signature`]). Identities are made of equivalence classes.
//!
//! When a selector is added or removed, an equivalence class that lies wholly within it gets a new signature and keeps
//! its members. Only a class that the selector splits loses members to another one, and two classes with equal
//! signatures become one. In both cases the smaller side moves, because every address of a moved class is looked up
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;
use heddle_model::{Labels, Pod};
use heddle_wire::Ip;

use crate::policy::equivalence::{EquivalenceClasses, Refinement, Signature};
use crate::policy::ids::{EquivalenceClassId, Label, NamedPort, PodClassId, SelectorId};

/// The properties of a pod that policies can refer to.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodTraits {
    /// The namespace's name. Its labels are looked up when they are needed.
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Labels,
    /// Sorted, without duplicates.
    pub(crate) ports: Vec<NamedPort>,
}

impl PodTraits {
    pub(crate) fn of(pod: &Pod) -> Self {
        let named = |p: &heddle_model::ContainerPort| Some((p.name.clone()?, p.protocol, p.number.get()));
        let mut ports: Vec<NamedPort> = pod.ports.iter().filter_map(named).collect();
        ports.sort_unstable();
        ports.dedup();
        Self {
            namespace: Arc::clone(&pod.key.namespace),
            labels: pod.labels.clone(),
            ports,
        }
    }
}

/// The pods with equal traits.
#[derive(Debug)]
pub(crate) struct PodClass {
    pub(crate) traits: Arc<PodTraits>,
    pub(crate) equivalence: EquivalenceClassId,
    /// The addresses that have an identity because of this class.
    addresses: BTreeSet<Ip>,
    /// The number of pods and attachments of the class.
    uses: u32,
}

type Index<K> = HashMap<K, BTreeSet<PodClassId>>;

/// All pod classes, with indexes by namespace, label and port name, and their equivalence classes.
#[derive(Debug, Default)]
pub(crate) struct PodClasses {
    slots: Vec<Option<PodClass>>,
    by_traits: HashMap<Arc<PodTraits>, PodClassId>,
    free: Vec<PodClassId>,
    unused: BTreeSet<PodClassId>,
    by_namespace: Index<Arc<str>>,
    by_label: Index<Label>,
    by_port: Index<Arc<str>>,
    equivalence: EquivalenceClasses,
}

impl PodClasses {
    pub(crate) fn get(&self, id: PodClassId) -> Option<&PodClass> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: PodClassId) -> Option<&mut PodClass> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Returns the signature of an equivalence class.
    pub(crate) fn signature(&self, id: EquivalenceClassId) -> Option<&Arc<Signature>> {
        self.equivalence.get(id).map(|class| &class.signature)
    }

    /// Returns the class of some traits and counts one more use of it. `sign` computes the signature of a new class.
    pub(crate) fn acquire(&mut self, traits: PodTraits, sign: impl FnOnce(&PodTraits) -> Signature) -> PodClassId {
        if let Some(id) = self.by_traits.get(&traits) {
            let id = *id;
            if let Some(class) = self.get_mut(id) {
                class.uses += 1;
            }
            self.unused.remove(&id);
            return id;
        }
        let id = self.free.pop().unwrap_or(PodClassId(self.slots.len() as u32));
        let equivalence = self.equivalence.find_or_create(sign(&traits));
        let traits = Arc::new(traits);
        self.edit_indexes(&traits, |set| {
            set.insert(id);
        });
        let class = PodClass {
            traits: Arc::clone(&traits),
            equivalence,
            addresses: BTreeSet::new(),
            uses: 1,
        };
        match self.slots.get_mut(id.0 as usize) {
            Some(slot) => *slot = Some(class),
            None => self.slots.push(Some(class)),
        }
        self.by_traits.insert(traits, id);
        self.equivalence.insert(id, equivalence);
        id
    }

    /// Counts one more use of a class in use.
    pub(crate) fn reuse(&mut self, id: PodClassId) -> PodClassId {
        if let Some(class) = self.get_mut(id) {
            class.uses += 1;
        }
        id
    }

    /// Counts one use less. An unused class is removed by [`purge`](Self::purge).
    pub(crate) fn release(&mut self, id: PodClassId) {
        if let Some(class) = self.get_mut(id) {
            class.uses -= 1;
            if class.uses == 0 {
                self.unused.insert(id);
            }
        }
    }

    /// Moves an address, whose identity follows from a pod class, from one class to another.
    pub(crate) fn move_address(&mut self, addr: Ip, before: Option<PodClassId>, after: Option<PodClassId>) {
        if before == after {
            return;
        }
        if let Some(class) = before.and_then(|id| self.get_mut(id)) {
            class.addresses.remove(&addr);
        }
        if let Some(class) = after.and_then(|id| self.get_mut(id)) {
            class.addresses.insert(addr);
        }
    }

    /// Removes unused pod classes and empty equivalence classes. To be called when no identity names them any more.
    pub(crate) fn purge(&mut self) {
        for id in std::mem::take(&mut self.unused) {
            let Some(class) = self.slots[id.0 as usize].take() else {
                continue;
            };
            self.by_traits.remove(&class.traits);
            self.edit_indexes(&class.traits, |set| {
                set.remove(&id);
            });
            self.equivalence.remove(id, class.equivalence);
            self.free.push(id);
        }
        self.equivalence.purge();
    }

    fn edit_indexes(&mut self, traits: &PodTraits, edit: impl Fn(&mut BTreeSet<PodClassId>)) {
        edit_set(&mut self.by_namespace, Arc::clone(&traits.namespace), &edit);
        for (key, value) in traits.labels.iter() {
            edit_set(&mut self.by_label, (Arc::clone(key), Arc::clone(value)), &edit);
        }
        for (name, ..) in &traits.ports {
            edit_set(&mut self.by_port, Arc::clone(name), &edit);
        }
    }

    /// Returns the classes of a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = PodClassId> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// Returns the classes that have a label with this value.
    pub(crate) fn with_label(&self, label: &Label) -> impl Iterator<Item = PodClassId> {
        self.by_label.get(label).into_iter().flatten().copied()
    }

    /// Returns the number of classes of a namespace.
    pub(crate) fn count_in(&self, namespace: &str) -> usize {
        self.by_namespace.get(namespace).map_or(0, BTreeSet::len)
    }

    /// Returns the number of classes that have a label with this value.
    pub(crate) fn count_with(&self, label: &Label) -> usize {
        self.by_label.get(label).map_or(0, BTreeSet::len)
    }

    /// Returns the classes that have a port of this name.
    pub(crate) fn with_port(&self, name: &str) -> impl Iterator<Item = PodClassId> {
        self.by_port.get(name).into_iter().flatten().copied()
    }

    /// Returns the namespaces that have classes.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_namespace.keys()
    }

    /// Adds a new selector to the signatures of the classes that it matches.
    pub(crate) fn add_selector(
        &mut self,
        selector: SelectorId,
        matched: impl IntoIterator<Item = PodClassId>,
    ) -> Refinement {
        let mut by_equivalence: Vec<(EquivalenceClassId, PodClassId)> = matched
            .into_iter()
            .filter_map(|id| Some((self.get(id)?.equivalence, id)))
            .collect();
        by_equivalence.sort_unstable();
        by_equivalence.dedup();
        let mut refinement = Refinement::default();
        for matched in by_equivalence.chunk_by(|a, b| a.0 == b.0) {
            let Some((id, _)) = matched.first().copied() else {
                continue;
            };
            let matched: Vec<PodClassId> = matched.iter().map(|(_, class)| *class).collect();
            let Some(equivalence) = self.equivalence.get(id) else {
                continue;
            };
            let before = Arc::clone(&equivalence.signature);
            let Err(at) = before.matched.binary_search(&selector) else {
                continue;
            };
            let mut after = Signature::clone(&before);
            after.matched.insert(at, selector);
            // The smaller side moves: the matched classes if they are fewer than half, else the others.
            if 2 * matched.len() < equivalence.members.len() {
                for class in matched {
                    self.move_to_signature(class, id, &after, &mut refinement.moved);
                }
            } else {
                let others: Vec<PodClassId> = if matched.len() == equivalence.members.len() {
                    Vec::new()
                } else {
                    let other = |class: &PodClassId| matched.binary_search(class).is_err();
                    equivalence.members.iter().copied().filter(other).collect()
                };
                self.equivalence.replace_signature(id, Arc::new(after));
                refinement.new_signature.push(id);
                for class in others {
                    self.move_to_signature(class, id, &before, &mut refinement.moved);
                }
            }
        }
        refinement
    }

    /// Removes a selector from all signatures.
    pub(crate) fn remove_selector(&mut self, selector: SelectorId) -> Refinement {
        let mut refinement = Refinement::default();
        for id in self.equivalence.take_selector(selector) {
            let Some(equivalence) = self.equivalence.get(id) else {
                continue;
            };
            let mut after = Signature::clone(&equivalence.signature);
            after.matched.retain(|s| *s != selector);
            // The class may become equal to another one. Then the smaller of the two moves.
            let twin = self.equivalence.find(&after);
            let smaller = |twin: &EquivalenceClassId| {
                let twin = self.equivalence.get(*twin);
                twin.is_some_and(|twin| twin.members.len() < equivalence.members.len())
            };
            match twin {
                Some(twin) if !smaller(&twin) => {
                    for class in equivalence.members.clone() {
                        self.move_to_signature(class, id, &after, &mut refinement.moved);
                    }
                }
                twin => {
                    let members = twin
                        .and_then(|twin| self.equivalence.get(twin))
                        .map(|t| t.members.clone());
                    if let Some(twin) = twin {
                        for class in members.unwrap_or_default() {
                            self.move_to_class(class, twin, id, &mut refinement.moved);
                        }
                    }
                    self.equivalence.replace_signature(id, Arc::new(after));
                    refinement.new_signature.push(id);
                }
            }
        }
        refinement
    }

    /// Gives pod classes new signatures.
    pub(crate) fn set_signatures(
        &mut self,
        signatures: impl IntoIterator<Item = (PodClassId, Arc<Signature>)>,
    ) -> Refinement {
        let mut by_equivalence: BTreeMap<EquivalenceClassId, Vec<(PodClassId, Arc<Signature>)>> = BTreeMap::new();
        for (id, signature) in signatures {
            if let Some(class) = self.get(id) {
                by_equivalence
                    .entry(class.equivalence)
                    .or_default()
                    .push((id, signature));
            }
        }
        let mut refinement = Refinement::default();
        for (id, signatures) in by_equivalence {
            let Some(equivalence) = self.equivalence.get(id) else {
                continue;
            };
            let Some((_, first)) = signatures.first() else {
                continue;
            };
            let all_equal = signatures.len() == equivalence.members.len()
                && signatures.iter().all(|(_, s)| Arc::ptr_eq(s, first) || s == first);
            if all_equal && *equivalence.signature == **first {
                continue;
            }
            // All members get the same signature, and no other class has it: nothing moves.
            if all_equal && self.equivalence.find(first).is_none() {
                self.equivalence.replace_signature(id, Arc::clone(first));
                refinement.new_signature.push(id);
                continue;
            }
            for (class, signature) in signatures {
                self.move_to_signature(class, id, &signature, &mut refinement.moved);
            }
        }
        refinement
    }

    fn move_to_signature(
        &mut self,
        class: PodClassId,
        from: EquivalenceClassId,
        signature: &Signature,
        moved: &mut Vec<Ip>,
    ) {
        let to = self.equivalence.find_or_create(Signature::clone(signature));
        self.move_to_class(class, from, to, moved);
    }

    fn move_to_class(
        &mut self,
        class: PodClassId,
        from: EquivalenceClassId,
        to: EquivalenceClassId,
        moved: &mut Vec<Ip>,
    ) {
        if to == from {
            return;
        }
        self.equivalence.remove(class, from);
        self.equivalence.insert(class, to);
        if let Some(class) = self.get_mut(class) {
            class.equivalence = to;
            moved.extend(&class.addresses);
        }
    }
}

/// Edits the set of a key, and removes the key if the set is empty afterwards.
fn edit_set<K: Eq + std::hash::Hash>(index: &mut Index<K>, key: K, edit: &impl Fn(&mut BTreeSet<PodClassId>)) {
    use std::collections::hash_map::Entry;
    match index.entry(key) {
        Entry::Occupied(mut set) => {
            edit(set.get_mut());
            if set.get().is_empty() {
                set.remove();
            }
        }
        Entry::Vacant(set) => edit(set.insert(BTreeSet::new())),
    }
}
