//! Working off what changed: from policies to groups, from addresses to identities, from both to cells.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use heddle_model::Pod;
use heddle_tables::{Endpoint, EndpointId, EndpointPolicy, IdentityId, WorkerId};
use heddle_wire::{Ip, MacAddr};

use crate::compiler::{BuildResult, Compiler};
use crate::generations::{Moves, Reach};
use crate::policy::groups::{GroupId, GroupKey};
use crate::policy::identities::Class;
use crate::policy::pod_classes::{KindId, PartId, Signature};
use crate::policy::policies::{Context, PolicyId};
use crate::policy::selectors::SelectorId;

impl Compiler {
    /// Makes the tables that follow from all that was taken in.
    pub fn rebuild(&mut self) -> BuildResult {
        let regrouped = self.regroup();
        let renamed = self.divide();
        let (addresses, ranges) = self.reclassify();
        self.reselect(&renamed);
        self.groups.fill(&self.selectors, &self.identities);
        for (before, after) in ranges {
            self.moves.note(before, after, &self.identities);
        }
        for addr in addresses {
            self.note_move(addr);
        }
        self.drop_unused();
        let mut copied = self.groups.hand_out();
        self.settle_endpoints(&regrouped);

        let changed = self.tables.is_changed();
        if changed || self.last.version() == 0 {
            let (snapshot, pages) = self.tables.build();
            copied += pages;
            self.last = snapshot;
        }
        self.identities.purge();
        self.kinds.purge();
        self.moves = Moves::default();
        self.build_number += 1;
        BuildResult {
            snapshot: Arc::clone(&self.last),
            changed,
            pages_copied: copied,
            ready: self
                .attached
                .iter()
                .filter(|(_, a)| a.group.is_some())
                .map(|(id, _)| *id)
                .collect(),
            raised: self.generations.take_raised().into_iter().collect(),
            removed_backends: std::mem::take(&mut self.removed_backends),
            new_frontends: std::mem::take(&mut self.new_frontends),
            node_ids: std::mem::take(&mut self.nodes.assigned),
        }
    }

    /// Finds the group of each endpoint that may have another one now. Gives the endpoints whose group changed.
    fn regroup(&mut self) -> BTreeSet<EndpointId> {
        let mut moving = Vec::new();
        for id in std::mem::take(&mut self.dirty_endpoints) {
            let Some(attached) = self.attached.get(&id) else {
                continue;
            };
            let key = match (&attached.attachment.pod, &attached.pod) {
                (None, _) => GroupKey::default(),
                (Some(_), None) => continue,
                (Some(_), Some(pod)) => self.group_key(pod),
            };
            let before = attached.group;
            if before
                .and_then(|group| self.groups.get(group))
                .is_none_or(|group| group.key != key)
            {
                moving.push((id, before, key));
            }
        }
        // Of each group: how many go, and where to if that is one way for all.
        let mut leaving: BTreeMap<GroupId, (u32, Option<&GroupKey>)> = BTreeMap::new();
        for (_, before, key) in &moving {
            let Some(before) = before else { continue };
            let (count, together) = leaving.entry(*before).or_insert((0, Some(key)));
            *count += 1;
            *together = together.filter(|other| *other == key);
        }
        let mut regrouped = BTreeSet::new();
        let (mut left, mut replaced) = (Vec::new(), Vec::new());
        for (id, before, key) in &moving {
            regrouped.insert(*id);
            let own = before.and_then(|group| Some((group, self.groups.get(group)?)));
            if own.is_some_and(|(_, group)| group.key == *key) {
                // It went there with the others.
                continue;
            }
            // If all who use it go there. Others may have come meanwhile, for what it is.
            let own = own.and_then(|(id, group)| {
                let (count, together) = leaving.get(&id)?;
                (together.is_some() && group.uses == *count).then_some(id)
            });
            let (group, policies) = self.acquire_group(key, own);
            replaced.extend(policies);
            if Some(group) != *before {
                left.extend(before);
            }
            if let Some(attached) = self.attached.get_mut(id) {
                attached.group = Some(group);
            }
        }
        // Afterwards, so that what old and new policies share stays as it is.
        for group in left {
            self.release_group(group);
        }
        self.release_policies(replaced);
        regrouped
    }

    /// The group that a pod belongs to.
    fn group_key(&self, pod: &Pod) -> GroupKey {
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

    /// The group of a key, used once more: one that there is, `own` with other policies, or a new one. With the policies
    /// that `own` was made of, where it is the one.
    fn acquire_group(&mut self, key: &GroupKey, own: Option<GroupId>) -> (GroupId, Vec<PolicyId>) {
        if let Some(group) = self.groups.reuse(key) {
            return (group, Vec::new());
        }
        let mut active = Vec::with_capacity(key.policies.len());
        let (policies, mut context) = self.context();
        for id in &key.policies {
            active.extend(policies.acquire(id, &mut context));
        }
        if let Some(own) = own
            && let Some(replaced) = self.groups.adapt(own, key, &active, &mut self.selectors)
        {
            return (own, replaced);
        }
        (self.groups.create(key.clone(), active, &mut self.selectors), Vec::new())
    }

    pub(crate) fn release_group(&mut self, group: GroupId) {
        let ids = self.groups.release(group, &mut self.selectors);
        self.release_policies(ids);
    }

    fn release_policies(&mut self, ids: Vec<PolicyId>) {
        let (policies, mut context) = self.context();
        for id in ids {
            policies.release(&id, &mut context);
        }
    }

    const fn context(&mut self) -> (&mut crate::policy::policies::Policies, Context<'_>) {
        let context = Context {
            selectors: &mut self.selectors,
            relevance: &mut self.relevance,
            cidrs: &mut self.cidrs,
            identities: &mut self.identities,
            kinds: &mut self.kinds,
            divided: &mut self.divided,
            rules: &mut self.rules,
            tables: &mut self.tables,
        };
        (&mut self.policies, context)
    }

    /// Gives addresses their identities. Returns those that were looked at, and the identities that outside addresses
    /// of a policy CIDR had and have.
    fn reclassify(&mut self) -> (BTreeSet<Ip>, Vec<(IdentityId, IdentityId)>) {
        let mut ranges = Vec::new();
        if self.relevance.take_nodes_touched() {
            self.addresses.touch_nodes();
        }
        let (added, removed) = self.cidrs.take_touched();
        let before: Vec<IdentityId> = added.iter().map(|p| self.cidrs.outside(*p)).collect();
        let mut gone = Vec::new();
        for prefix in removed {
            self.tables.remove_cidr(prefix);
            self.addresses.touch_range(prefix);
            gone.extend(self.cidrs.remove(prefix).map(|identity| (prefix, identity)));
        }
        for (prefix, before) in added.into_iter().zip(before) {
            let class = Class {
                cidr: Some(prefix),
                ..Class::default()
            };
            let identity = self.identities.acquire(class, None, self.build_number);
            self.cidrs.add(prefix, identity);
            self.tables.set_cidr(prefix, identity);
            self.addresses.touch_range(prefix);
            ranges.push((before, identity));
        }
        for (prefix, identity) in gone {
            ranges.push((identity, self.cidrs.outside(prefix)));
            self.identities.release(identity);
        }
        let dirty = self.addresses.take_dirty();
        for addr in &dirty {
            self.settle(*addr);
        }
        (dirty, ranges)
    }

    /// Divides pods into parts by what selectors and named ports have come and gone, and what labels of namespaces have
    /// changed. Gives the parts that are what they were but for their signature.
    fn divide(&mut self) -> BTreeSet<PartId> {
        // Identities of those know already that a selector went.
        let mut moved = std::mem::take(&mut self.divided).moved;
        let mut signed = BTreeSet::new();
        for id in self.selectors.fresh() {
            let Some(kinds) = self.selectors.kinds_of(id, &self.kinds, &self.namespaces) else {
                continue;
            };
            let divided = self.kinds.gain(id, kinds);
            moved.extend(divided.moved);
            // Only groups that are new as well have the selector: no cell of another one changes.
            for part in divided.renamed {
                for member in self.identities.of_part(part).collect::<Vec<_>>() {
                    self.select(id, member);
                }
            }
        }
        for name in self.relevance.take_touched() {
            signed.extend(self.kinds.with_port(&name));
        }
        for namespace in std::mem::take(&mut self.dirty_namespaces) {
            signed.extend(self.kinds.in_namespace(&namespace));
        }
        let sign = |id: KindId| {
            let what = &self.kinds.get(id)?.what;
            let signature = Signature {
                matched: self.selectors.of_kind(what, &self.namespaces),
                ports: self.relevance.ports(&what.ports),
            };
            Some((id, Arc::new(signature)))
        };
        let signed: Vec<_> = signed.into_iter().filter_map(sign).collect();
        let divided = self.kinds.sign(signed);
        for addr in moved.into_iter().chain(divided.moved) {
            self.addresses.touch(addr);
        }
        divided.renamed.into_iter().collect()
    }

    /// Notes on both sides that a selector selects an identity.
    fn select(&mut self, selector: SelectorId, member: IdentityId) {
        if let Some(identity) = self.identities.get_mut(member)
            && let Err(at) = identity.matched.binary_search(&selector)
        {
            identity.matched.insert(at, selector);
        }
        if let Some(selector) = self.selectors.get_mut(selector) {
            selector.members.insert(member);
        }
    }

    /// Finds the selectors of new identities and of those of renamed parts, and the identities of new selectors of
    /// addresses; makes the cells that this touches anew.
    fn reselect(&mut self, renamed: &BTreeSet<PartId>) {
        for id in self.identities.take_fresh() {
            self.reselect_identity(id);
        }
        for part in renamed {
            for id in self.identities.of_part(*part).collect::<Vec<_>>() {
                self.reselect_identity(id);
            }
        }
        for id in self.selectors.take_fresh() {
            for member in self.selectors.addresses_of(id, &self.identities) {
                self.select(id, member);
            }
        }
    }

    fn reselect_identity(&mut self, id: IdentityId) {
        let Some(identity) = self.identities.get(id) else {
            return;
        };
        let signature = identity.class.part.and_then(|part| self.kinds.signature(part));
        let mut matching = self.selectors.of_addresses(&identity.class, &self.cidrs);
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
        let mut cells = BTreeSet::new();
        for at in before.union(&after) {
            let (was, is) = (before.contains(at), after.contains(at));
            let Some(selector) = self.selectors.get_mut(*at) else {
                continue;
            };
            if was && !is {
                selector.members.remove(&id);
            } else if is && !was {
                selector.members.insert(id);
            }
            // Rules by name mean other numbers where the ports are others.
            if was != is || !same_ports {
                cells.extend(selector.groups.iter().copied());
            }
        }
        for (group, direction) in cells {
            self.groups.refresh(group, direction, id, self.identities.get(id));
        }
        if born < self.build_number {
            self.moves.note_changed(id);
        }
    }

    /// Takes identities that no address has any more out of selectors and cells.
    fn drop_unused(&mut self) {
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
                    self.groups.refresh(group, direction, id, None);
                }
            }
        }
    }

    /// Compares who and where an address is with the last tables.
    fn note_move(&mut self, addr: Ip) {
        let (before, after) = (self.last.address(addr), self.tables.current().address(addr));
        if before.identity != after.identity {
            self.moves.note(before.identity, after.identity, &self.identities);
        }
        // An address that nobody was known to have had no live connection worth moving.
        if before.place != after.place && self.last.knows(addr) {
            self.generations.rerouted(before.place);
        }
    }

    /// Raises generations where policy refuses what it allowed, and writes the endpoints that changed.
    fn settle_endpoints(&mut self, regrouped: &BTreeSet<EndpointId>) {
        let mut reach = Reach {
            moves: &self.moves,
            identities: &self.identities,
            build: self.build_number,
            asked: HashMap::new(),
        };
        for (id, attached) in &self.attached {
            let policy = attached
                .group
                .and_then(|g| self.groups.get(g))
                .map(|g| Arc::clone(&g.policy));
            let before = self.last.endpoint(*id).and_then(|e| e.policy.as_ref());
            if let (Some(before), Some(after)) = (before, &policy)
                && reach.changed(before, after, !regrouped.contains(id))
            {
                self.generations.raise(*id);
            }
            let attachment = &attached.attachment;
            let mtu = match attachment.mtu {
                0 => self.config.local_mtu,
                own => own,
            };
            let known = self.tables.current().endpoint(*id);
            let same = known.is_some_and(|e| {
                e.generation == self.generations.get(*id)
                    && e.port == attachment.port
                    && e.worker == attachment.worker
                    && e.mtu == mtu
                    && e.mac == attachment.mac
                    && e.addresses == attachment.addresses
                    && same_policy(e.policy.as_ref(), policy.as_ref())
            });
            if !same {
                self.tables.set_endpoint(Endpoint {
                    id: *id,
                    generation: self.generations.get(*id),
                    addresses: attachment.addresses.clone(),
                    mac: attachment.mac,
                    port: attachment.port,
                    worker: attachment.worker,
                    mtu,
                    name: attached.name().into(),
                    policy,
                });
            }
        }
        self.settle_node_endpoints();
    }

    /// Writes the host and the uplink.
    pub(crate) fn settle_node_endpoints(&mut self) {
        let config = &self.config;
        let write = |id, addresses, mac: MacAddr, port, name: &str| Endpoint {
            id,
            generation: self.generations.get(id),
            addresses,
            mac,
            port,
            worker: WorkerId(0),
            mtu: config.uplink.direct,
            name: name.into(),
            policy: None,
        };
        let host = write(
            EndpointId::HOST,
            config.host.addresses.clone(),
            config.host.mac,
            config.host_port,
            "host",
        );
        let uplink = write(
            EndpointId::UPLINK,
            arrayvec::ArrayVec::new(),
            config.uplink_mac,
            config.uplink_port,
            "uplink",
        );
        self.tables.set_endpoint(host);
        self.tables.set_endpoint(uplink);
    }
}

fn same_policy(a: Option<&Arc<EndpointPolicy>>, b: Option<&Arc<EndpointPolicy>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}
