//! Identities: classes of addresses that no active policy can tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use heddle_model::Labels;
use heddle_tables::{IdentityId, Prefix};

use crate::policy::groups::NamedPort;
use crate::policy::pod_classes::{PartId, Signature};
use crate::policy::selectors::SelectorId;

/// What an identity is the class of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Class {
    /// What policy can tell of the pod, where it is one's address.
    pub(crate) part: Option<PartId>,
    /// Those of a node's labels that policies speak of, where it is one's address and they speak of nodes at all.
    pub(crate) node: Option<Labels>,
    /// The longest policy CIDR that covers the address.
    pub(crate) cidr: Option<Prefix>,
}

/// One identity.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) class: Class,
    /// The selectors that select it, sorted.
    pub(crate) matched: Vec<SelectorId>,
    /// The named ports of its pods that policies speak of.
    pub(crate) ports: Arc<[NamedPort]>,
    /// The build in which it was made.
    pub(crate) born: u64,
    uses: u32,
}

impl Identity {
    /// The named ports of its pods.
    pub(crate) fn ports(&self) -> &[NamedPort] {
        &self.ports
    }
}

/// All identities, with the indexes that find those that a selector may select.
#[derive(Debug)]
pub(crate) struct Identities {
    slots: Vec<Option<Identity>>,
    known: HashMap<Class, IdentityId>,
    free: Vec<IdentityId>,
    by_part: HashMap<PartId, BTreeSet<IdentityId>>,
    by_cidr: BTreeMap<Prefix, BTreeSet<IdentityId>>,
    of_nodes: BTreeSet<IdentityId>,
    fresh: Vec<IdentityId>,
    unused: BTreeSet<IdentityId>,
}

impl Default for Identities {
    /// With [`IdentityId::OUTSIDE`], which always exists.
    fn default() -> Self {
        let outside = Identity {
            class: Class::default(),
            matched: Vec::new(),
            ports: Arc::default(),
            born: 0,
            uses: 1,
        };
        let mut known = HashMap::new();
        known.insert(Class::default(), IdentityId::OUTSIDE);
        Self {
            slots: vec![Some(outside)],
            known,
            free: Vec::new(),
            by_part: HashMap::new(),
            by_cidr: BTreeMap::new(),
            of_nodes: BTreeSet::new(),
            fresh: Vec::new(),
            unused: BTreeSet::new(),
        }
    }
}

impl Identities {
    pub(crate) fn get(&self, id: IdentityId) -> Option<&Identity> {
        self.slots.get(id.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: IdentityId) -> Option<&mut Identity> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it was there before that build, and still is.
    pub(crate) fn is_older(&self, id: IdentityId, build: u64) -> bool {
        self.get(id).is_some_and(|i| i.born < build && i.uses > 0)
    }

    /// The identities that were there before that build, and still are.
    pub(crate) fn older_than(&self, build: u64) -> impl Iterator<Item = IdentityId> {
        let all = (0u32..).zip(&self.slots).map(|(id, _)| IdentityId(id));
        all.filter(move |id| self.is_older(*id, build))
    }

    /// The identity of a class, used once more. `signature` is that of the class's part.
    pub(crate) fn acquire(&mut self, class: Class, signature: Option<&Signature>, build: u64) -> IdentityId {
        if let Some(id) = self.known.get(&class) {
            let id = *id;
            if let Some(identity) = self.get_mut(id) {
                identity.uses += 1;
                if identity.uses == 1 {
                    self.unused.remove(&id);
                }
            }
            return id;
        }
        let identity = Identity {
            class: class.clone(),
            matched: Vec::new(),
            ports: signature.map(|s| Arc::clone(&s.ports)).unwrap_or_default(),
            born: build,
            uses: 1,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id.index()] = Some(identity);
                id
            }
            None => {
                self.slots.push(Some(identity));
                IdentityId(self.slots.len() as u32 - 1)
            }
        };
        self.index(&class, |set| {
            set.insert(id);
        });
        self.known.insert(class, id);
        self.fresh.push(id);
        id
    }

    /// An identity is used once less. One that nobody uses goes with [`purge`](Self::purge).
    pub(crate) fn release(&mut self, id: IdentityId) {
        if let Some(identity) = self.get_mut(id) {
            identity.uses -= 1;
            if identity.uses == 0 {
                self.unused.insert(id);
            }
        }
    }

    /// Those that were made since the last call and are still used.
    pub(crate) fn take_fresh(&mut self) -> Vec<IdentityId> {
        std::mem::take(&mut self.fresh)
    }

    /// Those that nobody uses now.
    pub(crate) fn unused(&self) -> Vec<IdentityId> {
        self.unused.iter().copied().collect()
    }

    /// Takes out those that nobody uses; their numbers are free from now on.
    pub(crate) fn purge(&mut self) {
        for id in std::mem::take(&mut self.unused) {
            if let Some(identity) = self.slots[id.index()].take() {
                self.known.remove(&identity.class);
                self.index(&identity.class, |set| {
                    set.remove(&id);
                });
                self.free.push(id);
            }
        }
    }

    fn index(&mut self, class: &Class, edit: impl Fn(&mut BTreeSet<IdentityId>)) {
        if let Some(part) = class.part {
            let set = self.by_part.entry(part).or_default();
            edit(set);
            if set.is_empty() {
                self.by_part.remove(&part);
            }
        }
        if class.node.is_some() {
            edit(&mut self.of_nodes);
        }
        if let Some(cidr) = class.cidr {
            let set = self.by_cidr.entry(cidr).or_default();
            edit(set);
            if set.is_empty() {
                self.by_cidr.remove(&cidr);
            }
        }
    }

    /// Identities of pods of a part.
    pub(crate) fn of_part(&self, part: PartId) -> impl Iterator<Item = IdentityId> {
        self.by_part.get(&part).into_iter().flatten().copied()
    }

    /// Identities of nodes' addresses, while policies speak of nodes.
    pub(crate) fn of_nodes(&self) -> impl Iterator<Item = IdentityId> {
        self.of_nodes.iter().copied()
    }

    /// Identities of all addresses whose longest policy CIDR lies in `prefix`.
    pub(crate) fn in_cidr(&self, prefix: Prefix) -> impl Iterator<Item = IdentityId> {
        let last = prefix.last();
        let near = self
            .by_cidr
            .range(prefix..)
            .take_while(move |(cidr, _)| cidr.addr() <= last);
        // `::/0` has the mapped range of IPv4 in its midst.
        near.filter(move |(cidr, _)| prefix.covers(cidr))
            .flat_map(|(_, set)| set.iter().copied())
    }
}
