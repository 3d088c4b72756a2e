//! Identities: classes of addresses that no active policy can tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use heddle_model::Labels;
use heddle_tables::{IdentityId, Prefix};

use crate::policy::ids::{EquivalenceClassId, NamedPort, SelectorId};

/// The properties of an address that active policies can see.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct IdentityClass {
    /// The equivalence class of the pod that has the address.
    pub(crate) pods: Option<EquivalenceClassId>,
    /// The labels of the node that has the address, as far as policies refer to them. `None` while no policy selects
    /// nodes.
    pub(crate) node: Option<Labels>,
    /// The longest policy CIDR that covers the address.
    pub(crate) cidr: Option<Prefix>,
}

/// One identity.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) class: IdentityClass,
    /// The selectors that match it, sorted.
    pub(crate) matched: Vec<SelectorId>,
    /// Those named ports of its pods that policies refer to.
    pub(crate) ports: Arc<[NamedPort]>,
    /// The rebuild in which it was made.
    pub(crate) born: u64,
    /// The number of addresses and policy CIDRs that have it.
    uses: u32,
}

/// All identities, with the indexes by which selectors find them.
#[derive(Debug)]
pub(crate) struct Identities {
    slots: Vec<Option<Identity>>,
    by_class: HashMap<IdentityClass, IdentityId>,
    free: Vec<IdentityId>,
    by_equivalence: HashMap<EquivalenceClassId, BTreeSet<IdentityId>>,
    by_cidr: BTreeMap<Prefix, BTreeSet<IdentityId>>,
    of_nodes: BTreeSet<IdentityId>,
    new: Vec<IdentityId>,
    unused: BTreeSet<IdentityId>,
}

impl Default for Identities {
    /// Makes the table with [`IdentityId::OUTSIDE`], which always exists.
    fn default() -> Self {
        let outside = Identity {
            class: IdentityClass::default(),
            matched: Vec::new(),
            ports: Arc::default(),
            born: 0,
            uses: 1,
        };
        let mut by_class = HashMap::new();
        by_class.insert(IdentityClass::default(), IdentityId::OUTSIDE);
        Self {
            slots: vec![Some(outside)],
            by_class,
            free: Vec::new(),
            by_equivalence: HashMap::new(),
            by_cidr: BTreeMap::new(),
            of_nodes: BTreeSet::new(),
            new: Vec::new(),
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

    /// Returns the number of identities.
    pub(crate) fn len(&self) -> usize {
        self.by_class.len()
    }

    /// Returns true if the identity existed before this rebuild and is still in use.
    pub(crate) fn is_older(&self, id: IdentityId, rebuild: u64) -> bool {
        self.get(id).is_some_and(|i| i.born < rebuild && i.uses > 0)
    }

    /// Returns the identities that existed before this rebuild and are still in use.
    pub(crate) fn older_than(&self, rebuild: u64) -> impl Iterator<Item = IdentityId> {
        let all = (0u32..).zip(&self.slots).map(|(id, _)| IdentityId(id));
        all.filter(move |id| self.is_older(*id, rebuild))
    }

    /// Returns the identity of a class and counts one more use of it. `ports` are the ports of a new one.
    pub(crate) fn acquire(&mut self, class: IdentityClass, ports: Arc<[NamedPort]>, rebuild: u64) -> IdentityId {
        if let Some(id) = self.by_class.get(&class) {
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
            ports,
            born: rebuild,
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
        self.edit_indexes(&class, |set| {
            set.insert(id);
        });
        self.by_class.insert(class, id);
        self.new.push(id);
        id
    }

    /// Counts one use less. An unused identity is removed by [`purge`](Self::purge).
    pub(crate) fn release(&mut self, id: IdentityId) {
        if let Some(identity) = self.get_mut(id) {
            identity.uses -= 1;
            if identity.uses == 0 {
                self.unused.insert(id);
            }
        }
    }

    /// Returns the identities that were made since the last call.
    pub(crate) fn take_new(&mut self) -> Vec<IdentityId> {
        std::mem::take(&mut self.new)
    }

    /// Returns the identities without a use.
    pub(crate) fn unused(&self) -> Vec<IdentityId> {
        self.unused.iter().copied().collect()
    }

    /// Removes the identities without a use. New identities may get their numbers.
    pub(crate) fn purge(&mut self) {
        for id in std::mem::take(&mut self.unused) {
            if let Some(identity) = self.slots[id.index()].take() {
                self.by_class.remove(&identity.class);
                self.edit_indexes(&identity.class, |set| {
                    set.remove(&id);
                });
                self.free.push(id);
            }
        }
    }

    fn edit_indexes(&mut self, class: &IdentityClass, edit: impl Fn(&mut BTreeSet<IdentityId>)) {
        if let Some(pods) = class.pods {
            let set = self.by_equivalence.entry(pods).or_default();
            edit(set);
            if set.is_empty() {
                self.by_equivalence.remove(&pods);
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

    /// Returns the identities of pods of an equivalence class.
    pub(crate) fn of_pods(&self, class: EquivalenceClassId) -> impl Iterator<Item = IdentityId> {
        self.by_equivalence.get(&class).into_iter().flatten().copied()
    }

    /// Returns the identities of nodes' addresses. There are none while no policy selects nodes.
    pub(crate) fn of_nodes(&self) -> impl Iterator<Item = IdentityId> {
        self.of_nodes.iter().copied()
    }

    /// Returns the identities of all addresses whose longest policy CIDR lies in `prefix`.
    pub(crate) fn in_cidr(&self, prefix: Prefix) -> impl Iterator<Item = IdentityId> {
        let last = prefix.last();
        let near = self
            .by_cidr
            .range(prefix..)
            .take_while(move |(cidr, _)| cidr.addr() <= last);
        // IPv4 addresses are stored as IPv4-mapped ones, which lie within `::/0`, but no IPv6 prefix covers them.
        near.filter(move |(cidr, _)| prefix.covers(cidr))
            .flat_map(|(_, set)| set.iter().copied())
    }
}
