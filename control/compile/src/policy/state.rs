//! The state of `policy`, and the steps of a rebuild that concern it alone.
//!
//! `node` and `compiler` call the steps. Where a step affects addresses or endpoints, it returns the changes for the
//! caller to apply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;
use heddle_model::{Labels, Pod};
use heddle_tables::{EndpointId, IdentityId, Prefix, SnapshotBuilder};
use heddle_wire::Ip;

use crate::policy::activate::Context;
use crate::policy::cidrs::Cidrs;
use crate::policy::comparison::{IdentityChanges, PolicyComparison};
use crate::policy::equivalence::{Refinement, Signature};
use crate::policy::group::GroupKey;
use crate::policy::groups::Groups;
use crate::policy::identities::{Identities, IdentityClass};
use crate::policy::ids::{EquivalenceClassId, GroupId, PodClassId, PolicyVersion, SelectorId};
use crate::policy::pod_classes::{PodClasses, PodTraits};
use crate::policy::references::References;
use crate::policy::rule_ids::RuleIds;
use crate::policy::selectors::Selectors;
use crate::policy::store::PolicyStore;

/// The inputs and intermediate results from which policy is compiled.
#[derive(Debug)]
pub(crate) struct PolicyState {
    pub(crate) policies: PolicyStore,
    pub(crate) references: References,
    pub(crate) groups: Groups,
    namespaces: HashMap<Arc<str>, Labels>,
    cidrs: Cidrs,
    identities: Identities,
    pod_classes: PodClasses,
    selectors: Selectors,
    rule_ids: RuleIds,
    changes: IdentityChanges,
    /// The number of the next rebuild. Identities keep the number of the rebuild in which they were made.
    rebuild: u64,
    /// The effect of removed selectors on equivalence classes since the last rebuild.
    refinement: Refinement,
    /// Namespaces whose labels changed since the last rebuild.
    changed_namespaces: BTreeSet<Arc<str>>,
}

/// An endpoint whose group changes.
pub(crate) struct GroupMove {
    pub(crate) endpoint: EndpointId,
    pub(crate) before: Option<GroupId>,
    pub(crate) key: GroupKey,
}

/// Pairs of identities: the identity that outside addresses of a policy CIDR had, and the one that they have now.
pub(crate) type RangeMoves = Vec<(IdentityId, IdentityId)>;

impl Default for PolicyState {
    fn default() -> Self {
        Self {
            policies: PolicyStore::default(),
            references: References::default(),
            groups: Groups::default(),
            namespaces: HashMap::default(),
            cidrs: Cidrs::default(),
            identities: Identities::default(),
            pod_classes: PodClasses::default(),
            selectors: Selectors::default(),
            rule_ids: RuleIds::default(),
            changes: IdentityChanges::default(),
            // `IdentityId::OUTSIDE` was made before the first one.
            rebuild: 1,
            refinement: Refinement::default(),
            changed_namespaces: BTreeSet::new(),
        }
    }
}

// Input: namespaces, pods and addresses.
impl PolicyState {
    /// Sets the labels of a namespace. Returns true if they changed.
    pub(crate) fn set_namespace(&mut self, name: &Arc<str>, labels: Labels) -> bool {
        let changed = self.namespaces.insert(Arc::clone(name), labels.clone()) != Some(labels);
        if changed {
            self.changed_namespaces.insert(Arc::clone(name));
        }
        changed
    }

    /// Returns the labels of a namespace, if it is known.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Returns the class of a pod and counts one more use of it.
    pub(crate) fn acquire_pod_class(&mut self, pod: &Pod) -> PodClassId {
        let Self {
            pod_classes,
            selectors,
            references,
            namespaces,
            ..
        } = self;
        pod_classes.acquire(PodTraits::of(pod), |traits| Signature {
            matched: selectors.matching_pods(traits, namespaces),
            ports: references.ports(&traits.ports),
        })
    }

    /// Counts one more use of a pod class in use.
    pub(crate) fn reuse_pod_class(&mut self, id: PodClassId) -> PodClassId {
        self.pod_classes.reuse(id)
    }

    /// Counts one use of a pod class less.
    pub(crate) fn release_pod_class(&mut self, id: PodClassId) {
        self.pod_classes.release(id);
    }

    /// Returns the identity of an address, and counts one more use of it.
    pub(crate) fn acquire_identity(
        &mut self,
        addr: Ip,
        pod_class: Option<PodClassId>,
        node: Option<Labels>,
    ) -> IdentityId {
        let pods = pod_class
            .and_then(|id| self.pod_classes.get(id))
            .map(|class| class.equivalence);
        let signature = pods.and_then(|pods| self.pod_classes.signature(pods));
        let ports = signature.map(|s| Arc::clone(&s.ports)).unwrap_or_default();
        let class = IdentityClass {
            pods,
            node,
            cidr: self.cidrs.longest(addr),
        };
        self.identities.acquire(class, ports, self.rebuild)
    }

    /// Records that an address's identity follows from another pod class now, and counts one use of its earlier identity
    /// less.
    pub(crate) fn replace_identity(
        &mut self,
        addr: Ip,
        before: (Option<IdentityId>, Option<PodClassId>),
        after: Option<PodClassId>,
    ) {
        self.pod_classes.move_address(addr, before.1, after);
        if let Some(before) = before.0 {
            self.identities.release(before);
        }
    }

    /// Returns the number of identities.
    pub(crate) fn identity_count(&self) -> usize {
        self.identities.len()
    }
}

// Step 1: groups.
impl PolicyState {
    /// Returns the key of the group to which a pod's endpoints belong.
    pub(crate) fn group_key(&self, pod: &Pod) -> GroupKey {
        let policies = self.policies.selecting(pod, self.namespaces.get(&pod.key.namespace));
        let names = self.policies.ingress_port_names(&policies);
        let named = pod
            .ports
            .iter()
            .filter_map(|p| Some((p.name.clone()?, p.protocol, p.number.get())));
        let ports: BTreeSet<_> = named.filter(|(name, ..)| names.contains(name)).collect();
        GroupKey {
            policies,
            ports: ports.into_iter().collect(),
        }
    }

    /// Moves endpoints to other groups. Returns the group of each endpoint whose group has another identifier now.
    ///
    /// If all endpoints of a group move to the same new key, the group changes its key, and only the cells that the
    /// replaced policies name are recompiled. Groups and policies are released at the end, so that selectors and rules
    /// that old and new policies share are never removed and made again.
    pub(crate) fn move_to_groups(
        &mut self,
        moves: &[GroupMove],
        tables: &mut SnapshotBuilder,
    ) -> Vec<(EndpointId, GroupId)> {
        // For each group that endpoints leave: how many do, and their new key if it is the same for all.
        let mut leaving: BTreeMap<GroupId, (u32, Option<&GroupKey>)> = BTreeMap::new();
        for GroupMove { before, key, .. } in moves {
            let Some(before) = before else { continue };
            let (count, common) = leaving.entry(*before).or_insert((0, Some(key)));
            *count += 1;
            *common = common.filter(|other| *other == key);
        }
        let mut moved = Vec::new();
        let (mut left, mut replaced) = (Vec::new(), Vec::new());
        for GroupMove { endpoint, before, key } in moves {
            let own = before.and_then(|group| Some((group, self.groups.get(group)?)));
            if own.is_some_and(|(_, group)| group.key == *key) {
                // The group changed its key already, for an earlier endpoint.
                continue;
            }
            // The group may change its key only if all its endpoints move together. Other endpoints may have joined it
            // in this loop, because of its old key.
            let own = own.and_then(|(id, group)| {
                let (count, common) = leaving.get(&id)?;
                (common.is_some() && group.uses == *count).then_some(id)
            });
            let (group, policies) = self.acquire_group(key, own, tables);
            replaced.extend(policies);
            if Some(group) != *before {
                left.extend(before);
            }
            moved.push((*endpoint, group));
        }
        for group in left {
            self.release_group(group, tables);
        }
        self.release_policies(replaced, tables);
        moved
    }

    /// Returns the group of a key, used once more: an existing one, `own` with a changed key, or a new one. Also returns
    /// the policies that `own` used, if its key changed.
    fn acquire_group(
        &mut self,
        key: &GroupKey,
        own: Option<GroupId>,
        tables: &mut SnapshotBuilder,
    ) -> (GroupId, Vec<PolicyVersion>) {
        if let Some(group) = self.groups.reuse(key) {
            return (group, Vec::new());
        }
        let mut active = Vec::with_capacity(key.policies.len());
        let (policies, mut context) = self.context(tables);
        for id in &key.policies {
            active.extend(policies.acquire(id, &mut context));
        }
        if let Some(own) = own
            && let Some(replaced) = self.groups.change_key(own, key, &active, &mut self.selectors)
        {
            return (own, replaced);
        }
        (self.groups.create(key.clone(), active, &mut self.selectors), Vec::new())
    }

    /// Counts one endpoint of a group less.
    pub(crate) fn release_group(&mut self, group: GroupId, tables: &mut SnapshotBuilder) {
        let ids = self.groups.release(group, &mut self.selectors);
        self.release_policies(ids, tables);
    }

    fn release_policies(&mut self, ids: Vec<PolicyVersion>, tables: &mut SnapshotBuilder) {
        let (policies, mut context) = self.context(tables);
        for id in ids {
            policies.release(&id, &mut context);
        }
    }

    const fn context<'a>(&'a mut self, tables: &'a mut SnapshotBuilder) -> (&'a mut PolicyStore, Context<'a>) {
        let context = Context {
            selectors: &mut self.selectors,
            references: &mut self.references,
            cidrs: &mut self.cidrs,
            identities: &mut self.identities,
            pod_classes: &mut self.pod_classes,
            refinement: &mut self.refinement,
            rule_ids: &mut self.rule_ids,
            tables,
        };
        (&mut self.policies, context)
    }
}

// Step 2: pod classes.
impl PolicyState {
    /// Updates the signatures of pod classes after changes of selectors, referenced port names and namespace labels.
    /// Returns the addresses that need another identity, and the equivalence classes whose identities keep their
    /// addresses but may match other selectors.
    pub(crate) fn refine_pod_classes(&mut self) -> (Vec<Ip>, BTreeSet<EquivalenceClassId>) {
        // Removed selectors are already removed from their identities.
        let mut moved = std::mem::take(&mut self.refinement).moved;
        for id in self.selectors.new_selectors() {
            let classes = self.selectors.pod_classes_of(id, &self.pod_classes, &self.namespaces);
            let Some(classes) = classes else { continue };
            let refinement = self.pod_classes.add_selector(id, classes);
            moved.extend(refinement.moved);
            // Only unfilled groups have a new selector, so no existing cell changes.
            for class in refinement.new_signature {
                for member in self.identities.of_pods(class).collect::<Vec<_>>() {
                    self.add_member(id, member);
                }
            }
        }
        let mut affected = BTreeSet::new();
        for name in self.references.take_changed_ports() {
            affected.extend(self.pod_classes.with_port(&name));
        }
        for namespace in std::mem::take(&mut self.changed_namespaces) {
            affected.extend(self.pod_classes.in_namespace(&namespace));
        }
        let sign = |id: PodClassId| {
            let traits = &self.pod_classes.get(id)?.traits;
            let signature = Signature {
                matched: self.selectors.matching_pods(traits, &self.namespaces),
                ports: self.references.ports(&traits.ports),
            };
            Some((id, Arc::new(signature)))
        };
        let signatures: Vec<_> = affected.into_iter().filter_map(sign).collect();
        let refinement = self.pod_classes.set_signatures(signatures);
        moved.extend(refinement.moved);
        (moved, refinement.new_signature.into_iter().collect())
    }

    /// Records on both sides that a selector matches an identity.
    fn add_member(&mut self, selector: SelectorId, member: IdentityId) {
        if let Some(identity) = self.identities.get_mut(member)
            && let Err(at) = identity.matched.binary_search(&selector)
        {
            identity.matched.insert(at, selector);
        }
        if let Some(selector) = self.selectors.get_mut(selector) {
            selector.members.insert(member);
        }
    }
}

// Step 3: policy CIDRs. (`node` assigns the identities of addresses.)
impl PolicyState {
    /// Adds and removes policy CIDRs. Calls `mark` for each, because addresses in it need another identity. Returns the
    /// identity changes of outside addresses.
    pub(crate) fn update_cidrs(&mut self, tables: &mut SnapshotBuilder, mut mark: impl FnMut(Prefix)) -> RangeMoves {
        let mut moves = Vec::new();
        let (added, removed) = self.cidrs.take_changed();
        // Before anything changes: the identities that outside addresses of new CIDRs have had.
        let before: Vec<IdentityId> = added.iter().map(|p| self.cidrs.outside(*p)).collect();
        let mut gone = Vec::new();
        for prefix in removed {
            tables.remove_cidr(prefix);
            mark(prefix);
            gone.extend(self.cidrs.remove(prefix).map(|identity| (prefix, identity)));
        }
        for (prefix, before) in added.into_iter().zip(before) {
            let class = IdentityClass {
                cidr: Some(prefix),
                ..IdentityClass::default()
            };
            let identity = self.identities.acquire(class, Arc::default(), self.rebuild);
            self.cidrs.add(prefix, identity);
            tables.set_cidr(prefix, identity);
            mark(prefix);
            moves.push((before, identity));
        }
        // After everything changed: the identities that outside addresses of removed CIDRs have now.
        for (prefix, identity) in gone {
            moves.push((identity, self.cidrs.outside(prefix)));
            self.identities.release(identity);
        }
        moves
    }
}

// Step 4: selectors and cells.
impl PolicyState {
    /// Finds the selectors of new identities and of equivalence classes with new signatures, and the identities of new
    /// block and node selectors. Recompiles the cells that this changes, in groups that are filled.
    pub(crate) fn match_selectors(&mut self, new_signature: &BTreeSet<EquivalenceClassId>) {
        for id in self.identities.take_new() {
            self.match_identity(id);
        }
        for class in new_signature {
            for id in self.identities.of_pods(*class).collect::<Vec<_>>() {
                self.match_identity(id);
            }
        }
        for id in self.selectors.take_new() {
            for member in self.selectors.identities_of(id, &self.identities) {
                self.add_member(id, member);
            }
        }
    }

    fn match_identity(&mut self, id: IdentityId) {
        let Some(identity) = self.identities.get(id) else {
            return;
        };
        // The selectors that match now: by address, and by the signature of the pods.
        let signature = identity.class.pods.and_then(|pods| self.pod_classes.signature(pods));
        let mut matching = self.selectors.matching_addresses(&identity.class, &self.cidrs);
        matching.extend(signature.iter().flat_map(|s| &s.matched));
        matching.sort_unstable();
        let ports = signature.map(|s| Arc::clone(&s.ports)).unwrap_or_default();
        let same_ports = ports == identity.ports;
        if matching == identity.matched && same_ports {
            return;
        }
        let before: BTreeSet<SelectorId> = identity.matched.iter().copied().collect();
        let after: BTreeSet<SelectorId> = matching.iter().copied().collect();
        let born = identity.born;
        if let Some(identity) = self.identities.get_mut(id) {
            (identity.matched, identity.ports) = (matching, ports);
        }
        // Cells change in the groups of selectors that matched before or match now, but not both. If the ports changed,
        // also in the groups of all others: their rules may have port names that mean other numbers.
        let mut cells = BTreeSet::new();
        for selector in before.union(&after) {
            let (was, is) = (before.contains(selector), after.contains(selector));
            let Some(selector) = self.selectors.get_mut(*selector) else {
                continue;
            };
            if was && !is {
                selector.members.remove(&id);
            } else if is && !was {
                selector.members.insert(id);
            }
            if was != is || !same_ports {
                cells.extend(selector.groups.iter().copied());
            }
        }
        for (group, direction) in cells {
            self.groups.rebuild_cell(group, direction, id, self.identities.get(id));
        }
        if born < self.rebuild {
            self.changes.record_changed(id);
        }
    }

    /// Compiles the cells of new groups.
    pub(crate) fn fill_groups(&mut self) {
        self.groups.fill(&self.selectors, &self.identities);
    }

    /// Records that addresses moved from one identity to another. Call it after
    /// [`match_selectors`](Self::match_selectors).
    pub(crate) fn record_move(&mut self, before: IdentityId, after: IdentityId) {
        self.changes.record_move(before, after, &self.identities);
    }

    /// Removes identities that no address has any more from selectors and cells.
    pub(crate) fn remove_unused_identities(&mut self) {
        for id in self.identities.unused() {
            let matched = self
                .identities
                .get_mut(id)
                .map(|i| std::mem::take(&mut i.matched))
                .unwrap_or_default();
            for selector in matched {
                let Some(selector) = self.selectors.get_mut(selector) else {
                    continue;
                };
                selector.members.remove(&id);
                for (group, direction) in selector.groups.iter().copied().collect::<Vec<_>>() {
                    self.groups.rebuild_cell(group, direction, id, None);
                }
            }
        }
    }

    /// Returns a comparison of policies before and after this rebuild.
    pub(crate) fn comparison(&self) -> PolicyComparison<'_> {
        PolicyComparison::new(&self.changes, &self.identities, self.rebuild)
    }

    /// Ends the rebuild: frees unused identities and classes, whose numbers the next rebuild may use again.
    pub(crate) fn finish(&mut self) {
        self.identities.purge();
        self.pod_classes.purge();
        self.changes = IdentityChanges::default();
        self.rebuild += 1;
    }

    /// Returns true if no policy is active.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.selectors.is_empty()
    }
}
