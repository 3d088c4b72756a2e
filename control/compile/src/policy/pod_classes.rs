//! Kinds of pods, and the parts that policy divides them into.
//!
//! A kind is what no policy could ever tell apart: pods of one namespace with the same labels and the same named ports,
//! which a deployment's are. Selectors are asked about kinds, each kind once. A **part** is all the kinds that no *active*
//! policy tells apart: the same selectors select them, and they have the same of the named ports that policies speak of
//! (their [`Signature`]).
//!
//! When a selector comes or goes, a part that lies wholly within it gets another signature and stays what it is; only one
//! that the selector splits loses kinds to another part, and two that nothing tells apart any more become one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;
use heddle_model::{Labels, Pod};
use heddle_wire::Ip;

use crate::policy::groups::NamedPort;
use crate::policy::selectors::SelectorId;

/// The number of a kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct KindId(u32);

/// The number of a part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PartId(u32);

/// What makes pods equal for every policy that can be.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodKind {
    /// Its namespace, whose labels are looked up when they are needed.
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Labels,
    /// Sorted, each once.
    pub(crate) ports: Vec<NamedPort>,
}

impl PodKind {
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

/// What active policies can tell of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Signature {
    /// The selectors of pods that select it, sorted.
    pub(crate) matched: Vec<SelectorId>,
    /// Those of its named ports that policies speak of.
    pub(crate) ports: Arc<[NamedPort]>,
}

/// A kind.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) what: Arc<PodKind>,
    pub(crate) part: PartId,
    /// The addresses that have an identity by it.
    addresses: BTreeSet<Ip>,
    /// Pods and attachments.
    uses: u32,
}

#[derive(Debug)]
struct Part {
    signature: Arc<Signature>,
    kinds: BTreeSet<KindId>,
}

/// What new signatures did.
#[derive(Debug, Default)]
pub(crate) struct Divided {
    /// Parts that have another signature and the same kinds.
    pub(crate) renamed: Vec<PartId>,
    /// Addresses whose kind is in another part now.
    pub(crate) moved: Vec<Ip>,
}

type Index<K> = HashMap<K, BTreeSet<KindId>>;

/// All kinds and parts.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    slots: Vec<Option<Kind>>,
    known: HashMap<Arc<PodKind>, KindId>,
    free: Vec<KindId>,
    unused: BTreeSet<KindId>,
    by_namespace: Index<Arc<str>>,
    by_label: Index<(Arc<str>, Arc<str>)>,
    by_port: Index<Arc<str>>,
    parts: Vec<Option<Part>>,
    by_signature: HashMap<Arc<Signature>, PartId>,
    by_selector: HashMap<SelectorId, BTreeSet<PartId>>,
    free_parts: Vec<PartId>,
    empty_parts: Vec<PartId>,
}

impl Divided {
    /// Adds what later signatures did.
    pub(crate) fn extend(&mut self, later: Self) {
        self.renamed.extend(later.renamed);
        self.moved.extend(later.moved);
    }
}

impl Kinds {
    pub(crate) fn get(&self, id: KindId) -> Option<&Kind> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: KindId) -> Option<&mut Kind> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    fn part(&self, id: PartId) -> Option<&Part> {
        self.parts.get(id.0 as usize)?.as_ref()
    }

    fn part_mut(&mut self, id: PartId) -> Option<&mut Part> {
        self.parts.get_mut(id.0 as usize)?.as_mut()
    }

    /// The signature of a part.
    pub(crate) fn signature(&self, id: PartId) -> Option<&Arc<Signature>> {
        self.part(id).map(|part| &part.signature)
    }

    /// The number of a kind, used once more. A new one is signed.
    pub(crate) fn acquire(&mut self, what: PodKind, sign: impl FnOnce(&PodKind) -> Signature) -> KindId {
        if let Some(id) = self.known.get(&what) {
            let id = *id;
            if let Some(kind) = self.get_mut(id) {
                kind.uses += 1;
            }
            self.unused.remove(&id);
            return id;
        }
        let id = self.free.pop().unwrap_or(KindId(self.slots.len() as u32));
        let part = self.part_of(sign(&what));
        let what = Arc::new(what);
        self.index(&what, |set| {
            set.insert(id);
        });
        let kind = Kind {
            what: Arc::clone(&what),
            part,
            addresses: BTreeSet::new(),
            uses: 1,
        };
        match self.slots.get_mut(id.0 as usize) {
            Some(slot) => *slot = Some(kind),
            None => self.slots.push(Some(kind)),
        }
        self.known.insert(what, id);
        self.join(id, part);
        id
    }

    /// A known kind, used once more.
    pub(crate) fn reuse(&mut self, id: KindId) -> KindId {
        if let Some(kind) = self.get_mut(id) {
            kind.uses += 1;
        }
        id
    }

    /// A kind is used once less. One that nobody uses goes with [`purge`](Self::purge).
    pub(crate) fn release(&mut self, id: KindId) {
        if let Some(kind) = self.get_mut(id) {
            kind.uses -= 1;
            if kind.uses == 0 {
                self.unused.insert(id);
            }
        }
    }

    /// An address has an identity by one kind after another.
    pub(crate) fn settle(&mut self, addr: Ip, before: Option<KindId>, after: Option<KindId>) {
        if before == after {
            return;
        }
        if let Some(kind) = before.and_then(|id| self.get_mut(id)) {
            kind.addresses.remove(&addr);
        }
        if let Some(kind) = after.and_then(|id| self.get_mut(id)) {
            kind.addresses.insert(addr);
        }
    }

    /// Takes out the kinds that nobody uses, and the parts that have none. No identity names those any more.
    pub(crate) fn purge(&mut self) {
        for id in std::mem::take(&mut self.unused) {
            let Some(kind) = self.slots[id.0 as usize].take() else {
                continue;
            };
            self.known.remove(&kind.what);
            self.index(&kind.what, |set| {
                set.remove(&id);
            });
            self.leave(id, kind.part);
            self.free.push(id);
        }
        for id in std::mem::take(&mut self.empty_parts) {
            self.parts[id.0 as usize] = None;
            self.free_parts.push(id);
        }
    }

    fn index(&mut self, what: &PodKind, edit: impl Fn(&mut BTreeSet<KindId>)) {
        edit_set(&mut self.by_namespace, Arc::clone(&what.namespace), &edit);
        for (key, value) in what.labels.iter() {
            edit_set(&mut self.by_label, (Arc::clone(key), Arc::clone(value)), &edit);
        }
        for (name, ..) in &what.ports {
            edit_set(&mut self.by_port, Arc::clone(name), &edit);
        }
    }

    /// The kinds of a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = KindId> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// The kinds that have a label with that value.
    pub(crate) fn with_label(&self, label: &(Arc<str>, Arc<str>)) -> impl Iterator<Item = KindId> {
        self.by_label.get(label).into_iter().flatten().copied()
    }

    /// How many kinds a namespace has.
    pub(crate) fn count_in(&self, namespace: &str) -> usize {
        self.by_namespace.get(namespace).map_or(0, BTreeSet::len)
    }

    /// How many kinds have a label with that value.
    pub(crate) fn count_with(&self, label: &(Arc<str>, Arc<str>)) -> usize {
        self.by_label.get(label).map_or(0, BTreeSet::len)
    }

    /// The kinds that have a port of that name.
    pub(crate) fn with_port(&self, name: &str) -> impl Iterator<Item = KindId> {
        self.by_port.get(name).into_iter().flatten().copied()
    }

    /// The namespaces that have kinds.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_namespace.keys()
    }

    /// A selector that was not in use selects these kinds.
    pub(crate) fn gain(&mut self, selector: SelectorId, kinds: impl IntoIterator<Item = KindId>) -> Divided {
        let mut by_part: Vec<(PartId, KindId)> = kinds
            .into_iter()
            .filter_map(|id| Some((self.get(id)?.part, id)))
            .collect();
        by_part.sort_unstable();
        by_part.dedup();
        let mut divided = Divided::default();
        for selected in by_part.chunk_by(|a, b| a.0 == b.0) {
            let Some((id, _)) = selected.first().copied() else {
                continue;
            };
            let selected: Vec<KindId> = selected.iter().map(|(_, kind)| *kind).collect();
            let Some(part) = self.part(id) else { continue };
            let before = Arc::clone(&part.signature);
            let Err(at) = before.matched.binary_search(&selector) else {
                continue;
            };
            let mut after = Signature::clone(&before);
            after.matched.insert(at, selector);
            if 2 * selected.len() < part.kinds.len() {
                for kind in selected {
                    self.relocate(kind, id, &after, &mut divided.moved);
                }
            } else {
                let others: Vec<KindId> = if selected.len() == part.kinds.len() {
                    Vec::new()
                } else {
                    let other = |kind: &KindId| selected.binary_search(kind).is_err();
                    part.kinds.iter().copied().filter(other).collect()
                };
                self.rename(id, Arc::new(after));
                divided.renamed.push(id);
                for kind in others {
                    self.relocate(kind, id, &before, &mut divided.moved);
                }
            }
        }
        divided
    }

    /// A selector is in use no more.
    pub(crate) fn lose(&mut self, selector: SelectorId) -> Divided {
        let mut divided = Divided::default();
        for id in self.by_selector.remove(&selector).unwrap_or_default() {
            let Some(part) = self.part(id) else { continue };
            let mut after = Signature::clone(&part.signature);
            after.matched.retain(|s| *s != selector);
            let twin = self.by_signature.get(&after).copied();
            let smaller = |twin: &PartId| self.part(*twin).is_some_and(|twin| twin.kinds.len() < part.kinds.len());
            match twin {
                Some(twin) if !smaller(&twin) => {
                    for kind in part.kinds.clone() {
                        self.relocate(kind, id, &after, &mut divided.moved);
                    }
                }
                twin => {
                    // The fewer move.
                    let kinds = twin.and_then(|twin| self.part(twin)).map(|twin| twin.kinds.clone());
                    if let Some(twin) = twin {
                        for kind in kinds.unwrap_or_default() {
                            self.transfer(kind, twin, id, &mut divided.moved);
                        }
                    }
                    self.rename(id, Arc::new(after));
                    divided.renamed.push(id);
                }
            }
        }
        divided
    }

    /// Gives kinds new signatures.
    pub(crate) fn sign(&mut self, signed: impl IntoIterator<Item = (KindId, Arc<Signature>)>) -> Divided {
        let mut by_part: BTreeMap<PartId, Vec<(KindId, Arc<Signature>)>> = BTreeMap::new();
        for (id, signature) in signed {
            if let Some(kind) = self.get(id) {
                by_part.entry(kind.part).or_default().push((id, signature));
            }
        }
        let mut divided = Divided::default();
        for (id, signed) in by_part {
            let Some(part) = self.part(id) else { continue };
            let Some((_, first)) = signed.first() else { continue };
            let alike =
                signed.len() == part.kinds.len() && signed.iter().all(|(_, s)| Arc::ptr_eq(s, first) || s == first);
            if alike && *part.signature == **first {
                continue;
            }
            if alike && !self.by_signature.contains_key(first) {
                self.rename(id, Arc::clone(first));
                divided.renamed.push(id);
                continue;
            }
            for (kind, signature) in signed {
                self.relocate(kind, id, &signature, &mut divided.moved);
            }
        }
        divided
    }

    fn rename(&mut self, id: PartId, after: Arc<Signature>) {
        let Some(part) = self.part_mut(id) else { return };
        let before = std::mem::replace(&mut part.signature, Arc::clone(&after));
        self.unsign(id, &before);
        self.enroll(id, after);
    }

    fn relocate(&mut self, kind: KindId, from: PartId, signature: &Signature, moved: &mut Vec<Ip>) {
        let to = self.part_of(Signature::clone(signature));
        self.transfer(kind, from, to, moved);
    }

    fn transfer(&mut self, kind: KindId, from: PartId, to: PartId, moved: &mut Vec<Ip>) {
        if to == from {
            return;
        }
        self.leave(kind, from);
        self.join(kind, to);
        if let Some(kind) = self.get_mut(kind) {
            kind.part = to;
            moved.extend(&kind.addresses);
        }
    }

    /// The part of a signature.
    fn part_of(&mut self, signature: Signature) -> PartId {
        if let Some(id) = self.by_signature.get(&signature) {
            return *id;
        }
        let id = self.free_parts.pop().unwrap_or(PartId(self.parts.len() as u32));
        let signature = Arc::new(signature);
        let part = Part {
            signature: Arc::clone(&signature),
            kinds: BTreeSet::new(),
        };
        match self.parts.get_mut(id.0 as usize) {
            Some(slot) => *slot = Some(part),
            None => self.parts.push(Some(part)),
        }
        self.enroll(id, signature);
        id
    }

    fn enroll(&mut self, id: PartId, signature: Arc<Signature>) {
        for selector in &signature.matched {
            self.by_selector.entry(*selector).or_default().insert(id);
        }
        self.by_signature.insert(signature, id);
    }

    fn unsign(&mut self, id: PartId, signature: &Arc<Signature>) {
        if self.by_signature.get(signature) == Some(&id) {
            self.by_signature.remove(signature);
        }
        for selector in &signature.matched {
            if let Some(parts) = self.by_selector.get_mut(selector) {
                parts.remove(&id);
                if parts.is_empty() {
                    self.by_selector.remove(selector);
                }
            }
        }
    }

    fn join(&mut self, kind: KindId, to: PartId) {
        if let Some(part) = self.part_mut(to) {
            part.kinds.insert(kind);
        }
    }

    fn leave(&mut self, kind: KindId, from: PartId) {
        let Some(part) = self.part_mut(from) else { return };
        part.kinds.remove(&kind);
        if part.kinds.is_empty() {
            // Nobody joins it again: identities may still name it.
            let signature = Arc::clone(&part.signature);
            self.unsign(from, &signature);
            self.empty_parts.push(from);
        }
    }
}

fn edit_set<K: Eq + std::hash::Hash>(index: &mut Index<K>, key: K, edit: &impl Fn(&mut BTreeSet<KindId>)) {
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
