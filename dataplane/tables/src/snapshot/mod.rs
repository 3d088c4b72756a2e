//! A snapshot: all tables at one moment.

mod builder;

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_ids::{EndpointId, IdentityId, RuleId};
use heddle_wire::{Ip, Proto};

use crate::branchless::{LOOK_AHEAD, SelectedIndices};
use crate::{
    AddressInfo, EgressPort, Endpoint, Frontend, FrontendKey, FrontendKind, Lpm, NodeTable, PagedMap, PagedVec, Place,
    Prefix, Provenance, ServiceLookup,
};

pub use self::builder::SnapshotBuilder;

/// All that workers read. Immutable; cheap to clone, since tables are roots of shared pages.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    node: Arc<NodeTable>,
    endpoints: PagedVec<Option<Endpoint>, 16>,
    /// Of each of `endpoints`.
    egress_ports: PagedVec<Option<EgressPort>>,
    addresses: PagedMap<Ip, AddressInfo>,
    identities: Lpm<IdentityId>,
    places: Lpm<Place>,
    /// Addresses of Services; the unspecified ones stand for the node's.
    service_addresses: PagedMap<Ip, Frontends>,
    frontends: PagedMap<FrontendKey, Arc<Frontend>>,
    provenance: PagedMap<RuleId, Arc<Provenance>>,
}

/// How many frontends an address has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Frontends {
    all: u32,
    /// Those that make it a cluster address.
    cluster: u32,
}

impl Frontends {
    fn count(&mut self, kind: FrontendKind, by: fn(u32, u32) -> u32) {
        self.all = by(self.all, 1);
        if kind == FrontendKind::ClusterIp {
            self.cluster = by(self.cluster, 1);
        }
    }
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
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id.index())?.as_ref()
    }

    /// The way out to a local endpoint, without the rest of it.
    #[inline]
    #[must_use]
    pub fn egress_port(&self, id: EndpointId) -> Option<&EgressPort> {
        self.egress_ports.get(id.index())?.as_ref()
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
        match self.addresses.get(&addr) {
            Some(info) => *info,
            None => self.address_by_range(addr),
        }
    }

    /// Who and where an address is that is not known by itself.
    #[inline]
    fn address_by_range(&self, addr: Ip) -> AddressInfo {
        AddressInfo {
            identity: self.identities.lookup(addr),
            place: self.places.lookup(addr),
        }
    }

    /// [`address`](Self::address) of many: what each one reads is fetched while the others are looked at, so that memory
    /// is waited for once. As many answers as there are questions and places for answers.
    pub fn addresses(&self, asked: &[Ip], found: &mut [AddressInfo]) {
        for (asked, found) in asked.chunks(LOOK_AHEAD).zip(found.chunks_mut(LOOK_AHEAD)) {
            let mut sought: ArrayVec<_, LOOK_AHEAD> = ArrayVec::new();
            for addr in asked {
                sought.push(self.addresses.begin_lookup(addr));
            }
            let (mut known, mut others) = (SelectedIndices::default(), SelectedIndices::default());
            for (at, sought) in sought.iter_mut().enumerate() {
                let may_be = sought.advance();
                known.push_if(at, may_be);
                others.push_if(at, !may_be);
            }
            let mut ranges: ArrayVec<_, LOOK_AHEAD> = ArrayVec::new();
            let begin_lookup = |place: usize| (place, self.identities.begin_lookup(asked[place]));
            for place in others.iter() {
                ranges.push(begin_lookup(place));
            }
            for place in known.iter() {
                match sought[place].find(&asked[place]) {
                    Some(info) => found[place] = *info,
                    None => ranges.push(begin_lookup(place)),
                }
            }
            for (_, sought) in &mut ranges {
                sought.advance();
            }
            for (place, sought) in &ranges {
                found[*place] = AddressInfo {
                    identity: sought.find(),
                    place: self.places.lookup(asked[*place]),
                };
            }
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
    ///
    /// A cluster address is the Service's with all its ports; any other address may be somebody's own too, and what no
    /// frontend listens on is not touched.
    #[inline]
    #[must_use]
    pub fn frontend(&self, ip: Ip, proto: Proto, port: u16) -> ServiceLookup<'_> {
        let mut found = [ServiceLookup::NotAService];
        self.frontends_at(&[FrontendKey { ip, proto, port }], &mut found);
        found[0]
    }

    /// [`frontend`](Self::frontend) of many: what each one reads is fetched while the others are looked at, and so are the
    /// frontends. As many answers as there are questions and places for answers.
    pub fn frontends_at<'a>(&'a self, asked: &[FrontendKey], found: &mut [ServiceLookup<'a>]) {
        for (asked, found) in asked.chunks(LOOK_AHEAD).zip(found.chunks_mut(LOOK_AHEAD)) {
            let mut sought: ArrayVec<_, LOOK_AHEAD> = ArrayVec::new();
            for key in asked {
                sought.push(self.frontends.begin_lookup(key));
            }
            for sought in &mut sought {
                sought.advance();
            }
            let mut others: ArrayVec<_, LOOK_AHEAD> = ArrayVec::new();
            for (place, (key, sought)) in asked.iter().zip(&sought).enumerate() {
                match sought.find(key) {
                    Some(frontend) => {
                        frontend.prefetch();
                        found[place] = ServiceLookup::Frontend(frontend);
                    }
                    None => others.push((place, self.service_addresses.begin_lookup(&key.ip))),
                }
            }
            for (_, sought) in &mut others {
                sought.advance();
            }
            for (place, sought) in &others {
                found[*place] = self.without_frontend(&asked[*place], sought.find(&asked[*place].ip));
            }
        }
    }

    /// The answer where nothing listens on that very address and port.
    #[inline]
    fn without_frontend(&self, key: &FrontendKey, known: Option<&Frontends>) -> ServiceLookup<'_> {
        if known.is_some_and(|known| known.cluster > 0) {
            return ServiceLookup::NoSuchPort;
        }
        let node_port = FrontendKey::node_port(key.ip.is_v4(), key.proto, key.port);
        let frontend = match self.node.has_node_ports(key.ip) {
            true => self.frontends.get(&node_port),
            false => None,
        };
        frontend.map_or(ServiceLookup::NotAService, ServiceLookup::Frontend)
    }

    /// Whether an address is the cluster address of a Service.
    #[must_use]
    pub fn is_cluster_address(&self, ip: Ip) -> bool {
        self.service_addresses.get(&ip).is_some_and(|known| known.cluster > 0)
    }

    /// The frontend of exactly this key.
    #[must_use]
    pub fn frontend_at(&self, key: FrontendKey) -> Option<&Arc<Frontend>> {
        self.frontends.get(&key)
    }

    /// All frontends, in no particular order.
    pub fn frontends(&self) -> impl Iterator<Item = &Arc<Frontend>> {
        self.frontends.iter().map(|(_, f)| f)
    }

    /// What a rule number stands for.
    #[must_use]
    pub fn provenance(&self, rule: RuleId) -> Option<Arc<Provenance>> {
        match Provenance::fixed(rule) {
            Some(fixed) => Some(Arc::new(fixed)),
            None => self.provenance.get(&rule).cloned(),
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
