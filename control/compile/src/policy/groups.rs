//! Groups: endpoints that the same policies select share one compiled policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;
use heddle_tables::{Direction, IdentityId};

use crate::policy::exchange::Exchange;
use crate::policy::group::{CellCache, Group, GroupKey};
use crate::policy::identities::{Identities, Identity};
use crate::policy::ids::{GroupId, PolicyVersion};
use crate::policy::rule::ActivePolicy;
use crate::policy::selectors::Selectors;

/// All groups in use.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Option<Group>>,
    by_key: HashMap<GroupKey, GroupId>,
    free: Vec<GroupId>,
    /// Groups whose cells [`fill`](Self::fill) compiles. For each direction: the cells that the exchange names, or all
    /// cells without one.
    unfilled: Vec<(GroupId, [Option<Exchange>; 2])>,
    /// Groups with a changed cell.
    changed: BTreeSet<GroupId>,
}

impl Groups {
    pub(crate) fn get(&self, id: GroupId) -> Option<&Group> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Returns the number of groups.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Returns the group of a key, if there is one, and counts one more endpoint.
    pub(crate) fn reuse(&mut self, key: &GroupKey) -> Option<GroupId> {
        let id = *self.by_key.get(key)?;
        self.get_mut(id)?.uses += 1;
        Some(id)
    }

    /// Makes a group with one endpoint. Its cells are compiled by [`fill`](Self::fill).
    pub(crate) fn create(
        &mut self,
        key: GroupKey,
        active: Vec<Arc<ActivePolicy>>,
        selectors: &mut Selectors,
    ) -> GroupId {
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
        self.by_key.insert(key, id);
        self.unfilled.push((id, [None, None]));
        self.changed.insert(id);
        id
    }

    /// Changes the key of a group, with all its endpoints, if only cells that the replaced policies name can differ.
    /// The cost depends on the replaced policies, not on the other ones. Returns the policies of the old key; `None` if
    /// a new group must be made.
    pub(crate) fn change_key(
        &mut self,
        id: GroupId,
        key: &GroupKey,
        active: &[Arc<ActivePolicy>],
        selectors: &mut Selectors,
    ) -> Option<Vec<PolicyVersion>> {
        let group = self.slots.get_mut(id.0 as usize)?.as_mut()?;
        if group.key.ports != key.ports {
            return None;
        }
        let before = group.active();
        let exchanges = Direction::BOTH.map(|direction| Exchange::between(direction, &before, active, selectors));
        if exchanges.iter().any(Option::is_none) {
            return None;
        }
        // Keep the selectors' lists of groups exact: remove this group where no rule has the selector any more, and add
        // it where a new rule has it.
        for (selector, direction) in group.replace(active.to_vec()) {
            let still = group.has_selector(direction, selector);
            if let Some(selector) = selectors.get_mut(selector).filter(|_| !still) {
                selector.groups.remove(&(id, direction));
            }
        }
        for (direction, exchange) in Direction::BOTH.into_iter().zip(&exchanges) {
            for selector in exchange.iter().flat_map(|exchange| &exchange.added) {
                let has = group.has_selector(direction, *selector);
                if let Some(selector) = selectors.get_mut(*selector).filter(|_| has) {
                    selector.groups.insert((id, direction));
                }
            }
        }
        let before = std::mem::replace(&mut group.key, key.clone());
        self.by_key.remove(&before);
        self.by_key.insert(key.clone(), id);
        self.unfilled.push((id, exchanges));
        self.changed.insert(id);
        Some(before.policies)
    }

    /// Counts one endpoint less. The last one removes the group and returns the policies that it used.
    pub(crate) fn release(&mut self, id: GroupId, selectors: &mut Selectors) -> Vec<PolicyVersion> {
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
        self.by_key.remove(&group.key);
        self.changed.remove(&id);
        self.free.push(id);
        group.key.policies
    }

    /// Compiles the cells of new groups, and the cells that exchanged policies name.
    pub(crate) fn fill(&mut self, selectors: &Selectors, identities: &Identities) {
        for (id, exchanges) in std::mem::take(&mut self.unfilled) {
            let Some(group) = self.get_mut(id) else { continue };
            for (direction, exchange) in Direction::BOTH.into_iter().zip(exchanges) {
                let members = |s| selectors.get(s).into_iter().flat_map(|s| s.members.iter().copied());
                let cells: BTreeSet<IdentityId> = match exchange {
                    Some(exchange) => {
                        let added = exchange.added.into_iter().flat_map(members);
                        added.chain(exchange.removed).collect()
                    }
                    None => group.selectors(direction).flat_map(members).collect(),
                };
                let mut cache = CellCache::default();
                for identity in cells {
                    group.rebuild_cell(direction, identity, identities.get(identity), &mut cache);
                }
            }
        }
    }

    /// Recompiles one cell in one direction of a group. `identity` is `None` if the identity was removed.
    pub(crate) fn rebuild_cell(
        &mut self,
        id: GroupId,
        direction: Direction,
        cell: IdentityId,
        identity: Option<&Identity>,
    ) {
        if let Some(group) = self.get_mut(id) {
            group.rebuild_cell(direction, cell, identity, &mut CellCache::default());
            self.changed.insert(id);
        }
    }

    /// Makes the policies of the changed groups. Returns the number of pages that were copied for them.
    pub(crate) fn publish_policies(&mut self) -> u64 {
        let mut copied = 0;
        for id in std::mem::take(&mut self.changed) {
            if let Some(group) = self.get_mut(id) {
                copied += group.publish_policy();
            }
        }
        copied
    }
}
