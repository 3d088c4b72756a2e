//! The builder of the next snapshot from the previous one.

use std::sync::Arc;

use heddle_ids::{EndpointId, IdentityId, NextHopId, NodeId, RuleId};
use heddle_wire::{Ip, MacAddr};

use super::Snapshot;
use crate::{
    AddressInfo, EgressPort, Endpoint, Frontend, FrontendKey, FrontendKind, NextHop, NodeTable, Place, Prefix,
    Provenance, RemoteNode,
};

/// A builder, which changes the tables and makes snapshots. To set an equal value again copies nothing.
#[derive(Debug, Default)]
pub struct SnapshotBuilder {
    next: Snapshot,
    changed: bool,
}

impl SnapshotBuilder {
    /// Returns a builder with empty tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the current tables, published or not.
    #[must_use]
    pub const fn current(&self) -> &Snapshot {
        &self.next
    }

    /// Sets the node.
    pub fn set_node(&mut self, node: NodeTable) {
        if *self.next.node != node {
            self.next.node = Arc::new(node);
            self.changed = true;
        }
    }

    /// Adds or replaces an endpoint.
    pub fn set_endpoint(&mut self, endpoint: Endpoint) {
        let id = endpoint.id.index();
        if self.next.endpoint(endpoint.id) != Some(&endpoint) {
            self.next.egress_ports.set(id, Some(EgressPort::from(&endpoint)));
            *self.next.endpoints.get_mut(id) = Some(endpoint);
            self.changed = true;
        }
    }

    /// Removes an endpoint. Its addresses have entries of their own, which stay.
    pub fn remove_endpoint(&mut self, id: EndpointId) {
        if self.next.endpoint(id).is_some() {
            self.next.egress_ports.set(id.index(), None);
            *self.next.endpoints.get_mut(id.index()) = None;
            self.changed = true;
        }
    }

    /// Sets the identity and the place of an address.
    pub fn set_address(&mut self, addr: Ip, info: AddressInfo) {
        self.changed |= self.next.addresses.set(addr, info);
    }

    /// Removes an address.
    pub fn remove_address(&mut self, addr: Ip) {
        self.changed |= self.next.addresses.remove(&addr).is_some();
    }

    /// Sets the identity of the addresses in `prefix` that have no entry of their own.
    pub fn set_cidr(&mut self, prefix: Prefix, identity: IdentityId) {
        self.changed |= self.next.identities.insert(prefix, identity) != Some(identity);
    }

    /// Removes a policy CIDR.
    pub fn remove_cidr(&mut self, prefix: Prefix) {
        self.changed |= self.next.identities.remove(prefix).is_some();
    }

    /// Sets the place of the addresses in `prefix` that have no entry of their own.
    pub fn set_range(&mut self, prefix: Prefix, place: Place) {
        self.changed |= self.next.places.insert(prefix, place) != Some(place);
    }

    /// Removes such a range.
    pub fn remove_range(&mut self, prefix: Prefix) {
        self.changed |= self.next.places.remove(prefix).is_some();
    }

    /// Adds or replaces a frontend.
    pub fn set_frontend(&mut self, frontend: Arc<Frontend>) {
        let (key, kind) = (frontend.key, frontend.kind);
        if self.next.frontends.get(&key) == Some(&frontend) {
            return;
        }
        self.changed = true;
        let before = self.next.frontends.insert(key, frontend).map(|before| before.kind);
        if before != Some(kind) {
            self.count_frontend(key.ip, before, Some(kind));
        }
    }

    /// Removes a frontend.
    pub fn remove_frontend(&mut self, key: FrontendKey) {
        if let Some(before) = self.next.frontends.remove(&key) {
            self.changed = true;
            self.count_frontend(key.ip, Some(before.kind), None);
        }
    }

    fn count_frontend(&mut self, ip: Ip, before: Option<FrontendKind>, after: Option<FrontendKind>) {
        let mut known = self.next.service_addresses.get(&ip).copied().unwrap_or_default();
        if let Some(kind) = before {
            known.count(kind, u32::saturating_sub);
        }
        if let Some(kind) = after {
            known.count(kind, u32::saturating_add);
        }
        if known.all == 0 {
            self.next.service_addresses.remove(&ip);
        } else {
            self.next.service_addresses.set(ip, known);
        }
    }

    /// Sets or removes the policy and rule behind a rule's identifier.
    pub fn set_provenance(&mut self, rule: RuleId, decision: Option<Arc<Provenance>>) {
        self.changed |= match decision {
            Some(decision) => self.next.provenance.set(rule, decision),
            None => self.next.provenance.remove(&rule).is_some(),
        };
    }

    /// Sets or removes another node.
    pub fn set_remote_node(&mut self, id: NodeId, node: Option<Arc<RemoteNode>>) {
        if self.next.nodes.get(&id) == node.as_ref() {
            return;
        }
        self.changed = true;
        let path = node.as_ref().and_then(|node| node.path.ok());
        self.next.node_paths.set(id.index(), path);
        let path_v6 = node.as_ref().and_then(|node| node.path_v6);
        self.next.node_paths_v6.set(id.index(), path_v6);
        let before = self.next.nodes.get(&id).and_then(|node| node.forwarder_mac());
        let after = node.as_deref().and_then(RemoteNode::forwarder_mac);
        if before != after {
            if let Some(mac) = before.filter(|mac| self.next.forwarder(*mac) == Some(id)) {
                self.next.forwarders.remove(&mac);
            }
            if let Some(mac) = after {
                self.next.forwarders.set(mac, id);
            }
        }
        match node {
            Some(node) => self.next.nodes.set(id, node),
            None => self.next.nodes.remove(&id).is_some(),
        };
    }

    /// Sets or removes a next hop of the uplink.
    pub fn set_next_hop(&mut self, id: NextHopId, hop: Option<NextHop>) {
        if self.next.next_hop(id).copied() != hop {
            self.next.next_hops.set(id.index(), hop);
            self.changed = true;
        }
    }

    /// Sets or removes the next hop that is the neighbor of the uplink with this MAC.
    pub fn set_neighbor(&mut self, mac: MacAddr, id: Option<NextHopId>) {
        self.changed |= match id {
            Some(id) => self.next.neighbors.set(mac, id),
            None => self.next.neighbors.remove(&mac).is_some(),
        };
    }

    /// Returns true if the tables have changed since the last [`build`](Self::build).
    #[must_use]
    pub const fn is_changed(&self) -> bool {
        self.changed
    }

    /// Returns a snapshot of the tables with the next version, and the number of pages copied for it.
    pub fn build(&mut self) -> (Arc<Snapshot>, u64) {
        let next = &mut self.next;
        next.version += 1;
        self.changed = false;
        let copied = next.endpoints.take_copied()
            + next.egress_ports.take_copied()
            + next.addresses.take_copied()
            + next.identities.take_copied()
            + next.places.take_copied()
            + next.service_addresses.take_copied()
            + next.frontends.take_copied()
            + next.provenance.take_copied()
            + next.nodes.take_copied()
            + next.node_paths.take_copied()
            + next.node_paths_v6.take_copied()
            + next.next_hops.take_copied()
            + next.neighbors.take_copied()
            + next.forwarders.take_copied();
        (Arc::new(next.clone()), copied)
    }
}

#[cfg(test)]
mod tests {
    use heddle_ids::NodeId;
    use heddle_wire::Proto;

    use super::*;
    use crate::{Backend, Backends, Choice, ServiceLookup};

    fn frontend(port: u16, backend: u8) -> Arc<Frontend> {
        made(FrontendKind::ClusterIp, [10, 96, 0, 1], port, backend)
    }

    fn made(kind: FrontendKind, addr: [u8; 4], port: u16, backend: u8) -> Arc<Frontend> {
        let key = FrontendKey {
            ip: Ip::from_v4(addr),
            proto: Proto::TCP,
            port,
        };
        let backend = Backend {
            ip: Ip::from_v4([10, 0, 0, backend]),
            port: 8080,
        };
        Arc::new(Frontend::new(key, kind, "shop/web", Backends::new([backend], false)))
    }

    #[test]
    fn other_ports_of_external_addresses_and_of_the_node_are_not_touched() {
        let mut tables = SnapshotBuilder::new();
        let node = [192, 0, 2, 1];
        tables.set_node(NodeTable {
            addresses: vec![Ip::from_v4(node)],
            ..NodeTable::default()
        });
        tables.set_frontend(made(FrontendKind::LoadBalancer, [198, 51, 100, 1], 80, 1));
        tables.set_frontend(made(FrontendKind::ExternalIp, node, 80, 2));
        tables.set_frontend(made(FrontendKind::NodePort, [0; 4], 30_080, 3));
        let ask = |tables: &mut SnapshotBuilder, addr, port| match tables.build().0.frontend(
            Ip::from_v4(addr),
            Proto::TCP,
            port,
        ) {
            ServiceLookup::Frontend(frontend) => Some(frontend.kind),
            ServiceLookup::NotAService => None,
            ServiceLookup::NoSuchPort => panic!("no cluster address"),
        };
        let balancer = [198, 51, 100, 1];
        assert_eq!(ask(&mut tables, balancer, 80), Some(FrontendKind::LoadBalancer));
        assert_eq!(ask(&mut tables, balancer, 81), None);
        assert_eq!(ask(&mut tables, balancer, 30_080), None);
        assert_eq!(ask(&mut tables, node, 80), Some(FrontendKind::ExternalIp));
        assert_eq!(ask(&mut tables, node, 30_080), Some(FrontendKind::NodePort));
        assert_eq!(ask(&mut tables, node, 22), None);
        tables.remove_frontend(FrontendKey::node_port(true, Proto::TCP, 30_080));
        assert_eq!(ask(&mut tables, node, 30_080), None);
    }

    #[test]
    fn a_known_address_counts_before_the_range_that_it_is_in() {
        let mut tables = SnapshotBuilder::new();
        let (pod, neighbour) = (Ip::from_v4([10, 0, 1, 1]), Ip::from_v4([10, 0, 1, 2]));
        let info = AddressInfo {
            identity: IdentityId(5),
            place: Place::Local(EndpointId(2)),
        };
        tables.set_cidr(Prefix::new(pod, 8), IdentityId(9));
        tables.set_range(Prefix::new(pod, 24), Place::Node(crate::NodeId(3)));
        tables.set_address(pod, info);
        let (snapshot, _) = tables.build();
        assert_eq!(snapshot.address(pod), info);
        let there = AddressInfo {
            identity: IdentityId(9),
            place: Place::Node(crate::NodeId(3)),
        };
        assert_eq!(snapshot.address(neighbour), there);
        assert_eq!(snapshot.address(Ip::from_v4([192, 0, 2, 1])), AddressInfo::default());
    }

    #[test]
    fn an_address_is_a_service_as_long_as_it_has_a_frontend() {
        let mut tables = SnapshotBuilder::new();
        tables.set_frontend(frontend(80, 1));
        tables.set_frontend(frontend(443, 1));
        tables.set_frontend(frontend(80, 2));
        let (two, _) = tables.build();
        tables.remove_frontend(frontend(80, 2).key);
        let (one, _) = tables.build();
        tables.remove_frontend(frontend(443, 1).key);
        let (none, _) = tables.build();
        let ask = |s: &Snapshot, port| match s.frontend(Ip::from_v4([10, 96, 0, 1]), Proto::TCP, port) {
            ServiceLookup::Frontend(f) => match f.pick(0) {
                Choice::Backend(b) => i32::from(b.ip.v4_octets()[3]),
                _ => 0,
            },
            ServiceLookup::NoSuchPort => -1,
            ServiceLookup::NotAService => -2,
        };
        assert_eq!([80, 443, 22].map(|p| ask(&two, p)), [2, 1, -1]);
        assert_eq!([80, 443, 22].map(|p| ask(&one, p)), [-1, 1, -1]);
        assert_eq!([80, 443, 22].map(|p| ask(&none, p)), [-2, -2, -2]);
    }

    #[test]
    fn an_entry_of_its_own_counts_before_ranges() {
        let mut tables = SnapshotBuilder::new();
        let info = |n| AddressInfo {
            identity: IdentityId(n),
            place: Place::Unreachable,
        };
        let v4 = |n: u32| Ip::from_v4((0x0a00_0000 + n * 0x31).to_be_bytes());
        let v6 = |n: u32| Ip::from_v6((0xfd_u128 << 120 | u128::from(n) << 20).to_be_bytes());
        let all = Prefix::new(Ip::from_v4([10, 0, 0, 0]), 8);
        tables.set_cidr(all, IdentityId(10_000));
        tables.set_range(all, Place::Node(NodeId(7)));
        for n in 0..2000 {
            tables.set_address(v4(n), info(n));
            tables.set_address(v6(n), info(n));
        }
        let (tables, _) = tables.build();
        let by_range = AddressInfo {
            identity: IdentityId(10_000),
            place: Place::Node(NodeId(7)),
        };
        for n in 0..3000 {
            let known = n < 2000;
            assert_eq!(tables.address(v4(n)), if known { info(n) } else { by_range }, "{n}");
            assert_eq!(
                tables.address(v6(n)),
                if known { info(n) } else { AddressInfo::default() },
                "{n}"
            );
        }
    }

    #[test]
    fn setting_equal_values_changes_nothing() {
        let mut tables = SnapshotBuilder::new();
        let say = |tables: &mut SnapshotBuilder| {
            tables.set_frontend(frontend(80, 1));
            tables.set_cidr(Prefix::new(Ip::from_v4([10, 0, 0, 0]), 8), IdentityId(1));
            tables.set_address(Ip::from_v4([10, 0, 0, 1]), AddressInfo::default());
            tables.set_node(NodeTable {
                name: "n".into(),
                ..NodeTable::default()
            });
        };
        say(&mut tables);
        let (first, _) = tables.build();
        say(&mut tables);
        assert!(!tables.is_changed());
        assert_eq!((tables.build().1, first.version()), (0, 1));
    }
}
