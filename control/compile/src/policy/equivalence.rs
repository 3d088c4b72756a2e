//! Equivalence classes: the pod classes that no active policy tells apart, by their signature.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;
use heddle_wire::Ip;

use crate::policy::ids::{EquivalenceClassId, NamedPort, PodClassId, SelectorId};

/// The properties of a pod that active policies can see.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Signature {
    /// The pod selectors that match, sorted.
    pub(crate) matched: Vec<SelectorId>,
    /// The pod's named ports that policies refer to.
    pub(crate) ports: Arc<[NamedPort]>,
}

/// The pod classes of one signature.
#[derive(Debug)]
pub(crate) struct EquivalenceClass {
    pub(crate) signature: Arc<Signature>,
    pub(crate) members: BTreeSet<PodClassId>,
}

/// The effect of changed signatures.
#[derive(Debug, Default)]
pub(crate) struct Refinement {
    /// Equivalence classes that have a new signature and the same members.
    pub(crate) new_signature: Vec<EquivalenceClassId>,
    /// Addresses whose pod class is in another equivalence class now.
    pub(crate) moved: Vec<Ip>,
}

impl Refinement {
    /// Adds a later effect.
    pub(crate) fn extend(&mut self, later: Self) {
        self.new_signature.extend(later.new_signature);
        self.moved.extend(later.moved);
    }
}

/// All equivalence classes, by identifier, signature and selector.
#[derive(Debug, Default)]
pub(crate) struct EquivalenceClasses {
    slots: Vec<Option<EquivalenceClass>>,
    by_signature: HashMap<Arc<Signature>, EquivalenceClassId>,
    by_selector: HashMap<SelectorId, BTreeSet<EquivalenceClassId>>,
    free: Vec<EquivalenceClassId>,
    empty: Vec<EquivalenceClassId>,
}

impl EquivalenceClasses {
    pub(crate) fn get(&self, id: EquivalenceClassId) -> Option<&EquivalenceClass> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: EquivalenceClassId) -> Option<&mut EquivalenceClass> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Returns the class of a signature, if there is one.
    pub(crate) fn find(&self, signature: &Signature) -> Option<EquivalenceClassId> {
        self.by_signature.get(signature).copied()
    }

    /// Returns the class of a signature, a new and empty one if there is none.
    pub(crate) fn find_or_create(&mut self, signature: Signature) -> EquivalenceClassId {
        if let Some(id) = self.find(&signature) {
            return id;
        }
        let id = self.free.pop().unwrap_or(EquivalenceClassId(self.slots.len() as u32));
        let signature = Arc::new(signature);
        let class = EquivalenceClass {
            signature: Arc::clone(&signature),
            members: BTreeSet::new(),
        };
        match self.slots.get_mut(id.0 as usize) {
            Some(slot) => *slot = Some(class),
            None => self.slots.push(Some(class)),
        }
        self.index(id, signature);
        id
    }

    /// Gives a class another signature and keeps its members.
    pub(crate) fn replace_signature(&mut self, id: EquivalenceClassId, after: Arc<Signature>) {
        let Some(class) = self.get_mut(id) else { return };
        let before = std::mem::replace(&mut class.signature, Arc::clone(&after));
        self.unindex(id, &before);
        self.index(id, after);
    }

    /// Adds a member.
    pub(crate) fn insert(&mut self, member: PodClassId, to: EquivalenceClassId) {
        if let Some(class) = self.get_mut(to) {
            class.members.insert(member);
        }
    }

    /// Removes a member. A class without members stays until [`purge`](Self::purge), because identities may still name
    /// it; no pod class can join it.
    pub(crate) fn remove(&mut self, member: PodClassId, from: EquivalenceClassId) {
        let Some(class) = self.get_mut(from) else { return };
        class.members.remove(&member);
        if class.members.is_empty() {
            let signature = Arc::clone(&class.signature);
            self.unindex(from, &signature);
            self.empty.push(from);
        }
    }

    /// Removes a selector from the index and returns the classes whose signature contains it.
    pub(crate) fn take_selector(&mut self, selector: SelectorId) -> BTreeSet<EquivalenceClassId> {
        self.by_selector.remove(&selector).unwrap_or_default()
    }

    /// Removes the classes without members.
    pub(crate) fn purge(&mut self) {
        for id in std::mem::take(&mut self.empty) {
            self.slots[id.0 as usize] = None;
            self.free.push(id);
        }
    }

    fn index(&mut self, id: EquivalenceClassId, signature: Arc<Signature>) {
        for selector in &signature.matched {
            self.by_selector.entry(*selector).or_default().insert(id);
        }
        self.by_signature.insert(signature, id);
    }

    fn unindex(&mut self, id: EquivalenceClassId, signature: &Arc<Signature>) {
        if self.by_signature.get(signature) == Some(&id) {
            self.by_signature.remove(signature);
        }
        for selector in &signature.matched {
            if let Some(classes) = self.by_selector.get_mut(selector) {
                classes.remove(&id);
                if classes.is_empty() {
                    self.by_selector.remove(selector);
                }
            }
        }
    }
}
