//! A snapshot: all tables at one moment, and the builder that makes the next from the last.

use std::sync::Arc;

use heddle_wire::{Ip, Proto};

use crate::{
    AddressInfo, Decision, Endpoint, EndpointNo, Frontend, FrontendKey, IdentityNo, Lpm, NodeTable, PagedMap, PagedVec,
    Place, Prefix, RuleNo, ServiceLookup,
};

/// All that workers read. Immutable; cheap to clone, since tables are roots of shared pages.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    node: Arc<NodeTable>,
    endpoints: PagedVec<Option<Endpoint>, 16>,
    addresses: PagedMap<Ip, AddressInfo>,
    identities: Lpm<IdentityNo>,
    places: Lpm<Place>,
    /// Addresses of Services, with how many frontends each has.
    service_addresses: PagedMap<Ip, u32>,
    frontends: PagedMap<FrontendKey, Arc<Frontend>>,
    reasons: PagedVec<Option<Arc<Decision>>>,
}

/// How full the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableSizes {
    /// Local endpoints, the host and the uplink included.
    pub endpoints: usize,
    /// Known addresses.
    pub addresses: usize,
    /// CIDRs that policies name.
    pub policy_cidrs: usize,
    /// Frontends of Services.
    pub frontends: usize,
    /// Addresses of Services.
    pub service_addresses: usize,
}

impl Snapshot {
    /// Counts published snapshots; 0 is the empty one of the start.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The node.
    #[inline]
    #[must_use]
    pub fn node(&self) -> &NodeTable {
        &self.node
    }

    /// A local endpoint.
    #[inline]
    #[must_use]
    pub fn endpoint(&self, no: EndpointNo) -> Option<&Endpoint> {
        self.endpoints.get(no.index())?.as_ref()
    }

    /// All local endpoints, by number.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter_map(|(_, e)| e.as_ref())
    }

    /// Who and where an address is. Known addresses first; for others the identity is that of the policy CIDRs that
    /// cover them, and the place that of the node whose pod range they are in.
    #[inline]
    #[must_use]
    pub fn address(&self, addr: Ip) -> AddressInfo {
        if let Some(info) = self.addresses.get(&addr) {
            return *info;
        }
        AddressInfo {
            identity: self.identities.lookup(addr).unwrap_or(IdentityNo::OUTSIDE),
            place: self.places.lookup(addr).unwrap_or_default(),
        }
    }

    /// Whether an address is in the table by itself.
    #[must_use]
    pub fn knows(&self, addr: Ip) -> bool {
        self.addresses.get(&addr).is_some()
    }

    /// The place of addresses of exactly this range that are not known by themselves.
    #[must_use]
    pub fn range(&self, prefix: Prefix) -> Option<Place> {
        self.places.get(prefix)
    }

    /// Whether (address, protocol, port) is a Service's. Protocols without ports ask with port 0.
    #[inline]
    #[must_use]
    pub fn frontend(&self, ip: Ip, proto: Proto, port: u16) -> ServiceLookup<'_> {
        if self.service_addresses.get(&ip).is_none() {
            return ServiceLookup::NotAService;
        }
        self.frontends
            .get(&FrontendKey { ip, proto, port })
            .map_or(ServiceLookup::NoSuchPort, ServiceLookup::Frontend)
    }

    /// All frontends, in no particular order.
    pub fn frontends(&self) -> impl Iterator<Item = &Arc<Frontend>> {
        self.frontends.iter().map(|(_, f)| f)
    }

    /// What a rule number stands for.
    #[must_use]
    pub fn reason(&self, rule: RuleNo) -> Option<Arc<Decision>> {
        match Decision::fixed(rule) {
            Some(fixed) => Some(Arc::new(fixed)),
            None => self.reasons.get(rule.index())?.clone(),
        }
    }

    /// How full the tables are.
    #[must_use]
    pub fn sizes(&self) -> TableSizes {
        TableSizes {
            endpoints: self.endpoints().count(),
            addresses: self.addresses.len(),
            policy_cidrs: self.identities.len(),
            frontends: self.frontends.len(),
            service_addresses: self.service_addresses.len(),
        }
    }
}

/// Changes tables and hands out snapshots. What it is told twice costs nothing.
#[derive(Debug, Default)]
pub struct SnapshotBuilder {
    next: Snapshot,
    changed: bool,
}

impl SnapshotBuilder {
    /// Starts with empty tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tables as they stand now, published or not.
    #[must_use]
    pub const fn current(&self) -> &Snapshot {
        &self.next
    }

    /// Sets what the node is.
    pub fn set_node(&mut self, node: NodeTable) {
        if *self.next.node != node {
            self.next.node = Arc::new(node);
            self.changed = true;
        }
    }

    /// Adds or replaces an endpoint.
    pub fn set_endpoint(&mut self, endpoint: Endpoint) {
        let no = endpoint.no.index();
        if self.next.endpoint(endpoint.no) != Some(&endpoint) {
            *self.next.endpoints.get_mut(no) = Some(endpoint);
            self.changed = true;
        }
    }

    /// Takes an endpoint out. Its addresses are entries of their own.
    pub fn remove_endpoint(&mut self, no: EndpointNo) {
        if self.next.endpoint(no).is_some() {
            *self.next.endpoints.get_mut(no.index()) = None;
            self.changed = true;
        }
    }

    /// Sets who and where an address is.
    pub fn set_address(&mut self, addr: Ip, info: AddressInfo) {
        self.changed |= self.next.addresses.set(addr, info);
    }

    /// Forgets an address.
    pub fn remove_address(&mut self, addr: Ip) {
        self.changed |= self.next.addresses.remove(&addr).is_some();
    }

    /// Sets the identity of addresses that are in `prefix` and not known by themselves.
    pub fn set_cidr(&mut self, prefix: Prefix, identity: IdentityNo) {
        self.changed |= self.next.identities.insert(prefix, identity) != Some(identity);
    }

    /// Takes a policy CIDR out.
    pub fn remove_cidr(&mut self, prefix: Prefix) {
        self.changed |= self.next.identities.remove(prefix).is_some();
    }

    /// Sets the place of addresses that are in `prefix` and not known by themselves.
    pub fn set_range(&mut self, prefix: Prefix, place: Place) {
        self.changed |= self.next.places.insert(prefix, place) != Some(place);
    }

    /// Takes such a range out.
    pub fn remove_range(&mut self, prefix: Prefix) {
        self.changed |= self.next.places.remove(prefix).is_some();
    }

    /// Adds or replaces a frontend.
    pub fn set_frontend(&mut self, frontend: Arc<Frontend>) {
        let key = frontend.key;
        if self.next.frontends.get(&key) == Some(&frontend) {
            return;
        }
        self.changed = true;
        if self.next.frontends.insert(key, frontend).is_none() {
            let ports = self.next.service_addresses.get(&key.ip).copied().unwrap_or(0);
            self.next.service_addresses.insert(key.ip, ports + 1);
        }
    }

    /// Takes a frontend out.
    pub fn remove_frontend(&mut self, key: FrontendKey) {
        if self.next.frontends.remove(&key).is_none() {
            return;
        }
        self.changed = true;
        match self.next.service_addresses.get(&key.ip).copied() {
            Some(ports) if ports > 1 => {
                self.next.service_addresses.insert(key.ip, ports - 1);
            }
            _ => {
                self.next.service_addresses.remove(&key.ip);
            }
        }
    }

    /// Sets what a rule number stands for, or forgets it.
    pub fn set_reason(&mut self, rule: RuleNo, decision: Option<Arc<Decision>>) {
        self.next.reasons.set(rule.index(), decision);
        self.changed = true;
    }

    /// Whether anything changed since the last [`build`](Self::build).
    #[must_use]
    pub const fn is_changed(&self) -> bool {
        self.changed
    }

    /// A snapshot of what stands now, with the next version, and how many pages were copied for it.
    pub fn build(&mut self) -> (Arc<Snapshot>, u64) {
        let next = &mut self.next;
        next.version += 1;
        self.changed = false;
        let copied = next.endpoints.take_copied()
            + next.addresses.take_copied()
            + next.identities.take_copied()
            + next.places.take_copied()
            + next.service_addresses.take_copied()
            + next.frontends.take_copied()
            + next.reasons.take_copied();
        (Arc::new(next.clone()), copied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Backends, Choice, FrontendKind};

    fn frontend(port: u16, backend: u8) -> Arc<Frontend> {
        Arc::new(Frontend {
            key: FrontendKey {
                ip: Ip::from_v4([10, 96, 0, 1]),
                proto: Proto::TCP,
                port,
            },
            kind: FrontendKind::ClusterIp,
            name: "shop/web".into(),
            backends: Backends::new(
                [Backend {
                    ip: Ip::from_v4([10, 0, 0, backend]),
                    port: 8080,
                }],
                false,
            ),
        })
    }

    #[test]
    fn a_known_address_counts_before_the_range_that_it_is_in() {
        let mut tables = SnapshotBuilder::new();
        let (pod, neighbour) = (Ip::from_v4([10, 0, 1, 1]), Ip::from_v4([10, 0, 1, 2]));
        let info = AddressInfo {
            identity: IdentityNo(5),
            place: Place::Local(EndpointNo(2)),
        };
        tables.set_cidr(Prefix::new(pod, 8), IdentityNo(9));
        tables.set_range(Prefix::new(pod, 24), Place::Node(crate::NodeNo(3)));
        tables.set_address(pod, info);
        let (snapshot, _) = tables.build();
        assert_eq!(snapshot.address(pod), info);
        let there = AddressInfo {
            identity: IdentityNo(9),
            place: Place::Node(crate::NodeNo(3)),
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
    fn saying_the_same_again_changes_nothing() {
        let mut tables = SnapshotBuilder::new();
        let say = |tables: &mut SnapshotBuilder| {
            tables.set_frontend(frontend(80, 1));
            tables.set_cidr(Prefix::new(Ip::from_v4([10, 0, 0, 0]), 8), IdentityNo(1));
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
