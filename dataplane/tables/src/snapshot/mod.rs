//! A snapshot: all tables at one moment.

mod builder;

use std::sync::Arc;

use heddle_ids::{EndpointId, IdentityId, NextHopId, NodeId, RuleId};
use heddle_wire::{Ip, MacAddr, Proto};

use crate::{
    AddressInfo, EgressPort, Endpoint, Frontend, FrontendKey, FrontendKind, Lpm, NextHop, NodePath, NodeTable,
    PagedMap, PagedVec, Place, Prefix, Provenance, RemoteNode, ServiceLookup,
};

pub use self::builder::SnapshotBuilder;

/// All tables that workers read. Immutable; cheap to clone, since tables are roots of shared pages.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    node: Arc<NodeTable>,
    endpoints: PagedVec<Option<Endpoint>, 16>,
    /// A copy of a few fields of each of `endpoints`.
    egress_ports: PagedVec<Option<EgressPort>>,
    addresses: PagedMap<Ip, AddressInfo>,
    identities: Lpm<IdentityId>,
    places: Lpm<Place>,
    /// The addresses of Services. The unspecified ones stand for the node's.
    service_addresses: PagedMap<Ip, Frontends>,
    frontends: PagedMap<FrontendKey, Arc<Frontend>>,
    provenance: PagedMap<RuleId, Arc<Provenance>>,
    nodes: PagedMap<NodeId, Arc<RemoteNode>>,
    /// A copy of the path of each of `nodes`.
    node_paths: PagedVec<Option<NodePath>, 16>,
    /// The same for nodes whose IPv6 pods are reached by another path.
    node_paths_v6: PagedVec<Option<NodePath>, 16>,
    next_hops: PagedVec<Option<NextHop>>,
    /// The neighbors of the uplink by their MAC.
    neighbors: PagedMap<MacAddr, NextHopId>,
    /// The nodes that forward connections to this node without a tunnel, by their MAC.
    forwarders: PagedMap<MacAddr, NodeId>,
}

/// The number of frontends of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Frontends {
    all: u32,
    /// The frontends that make it a cluster address.
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

/// The numbers of entries in the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableSizes {
    /// Local endpoints, including the host and the uplink.
    pub endpoints: usize,
    /// Known addresses.
    pub addresses: usize,
    /// CIDRs of policies.
    pub policy_cidrs: usize,
    /// Frontends of Services.
    pub frontends: usize,
    /// Addresses of Services.
    pub service_addresses: usize,
}

impl Snapshot {
    /// Returns the version: the number of snapshots built so far; 0 is the empty one at the start.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Returns the node.
    #[inline]
    #[must_use]
    pub fn node(&self) -> &NodeTable {
        &self.node
    }

    /// Returns a local endpoint.
    #[inline]
    #[must_use]
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id.index())?.as_ref()
    }

    /// Returns the port and generation of a local endpoint, without the rest of it.
    #[inline]
    #[must_use]
    pub fn egress_port(&self, id: EndpointId) -> Option<&EgressPort> {
        self.egress_ports.get(id.index())?.as_ref()
    }

    /// Iterates over all local endpoints, in the order of their identifiers.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter_map(|(_, e)| e.as_ref())
    }

    /// Returns the identity and place of an address. An entry of its own counts first; otherwise the longest policy CIDR
    /// that contains it gives the identity, and the longest range that contains it the place.
    #[inline]
    #[must_use]
    pub fn address(&self, addr: Ip) -> AddressInfo {
        match self.addresses.get(&addr) {
            Some(info) => *info,
            None => AddressInfo {
                identity: self.identities.lookup(addr),
                place: self.places.lookup(addr),
            },
        }
    }

    /// Returns true if an address has an entry of its own.
    #[must_use]
    pub fn knows(&self, addr: Ip) -> bool {
        self.addresses.get(&addr).is_some()
    }

    /// Returns the place of exactly this range.
    #[must_use]
    pub fn range(&self, prefix: Prefix) -> Option<Place> {
        self.places.get(prefix)
    }

    /// Looks up (address, protocol, port) among the Services. Protocols without ports use port 0.
    ///
    /// A cluster address belongs to the Service with all its ports. Any other address may belong to a host as well, so its ports
    /// without a frontend are not affected.
    #[inline]
    #[must_use]
    pub fn frontend(&self, ip: Ip, proto: Proto, port: u16) -> ServiceLookup<'_> {
        let key = FrontendKey { ip, proto, port };
        match self.frontends.get(&key) {
            Some(frontend) => ServiceLookup::Frontend(frontend),
            None => self.without_frontend(&key),
        }
    }

    /// Returns the result for a key without a frontend of exactly this address and port.
    #[inline]
    fn without_frontend(&self, key: &FrontendKey) -> ServiceLookup<'_> {
        if self.is_cluster_address(key.ip) {
            return ServiceLookup::NoSuchPort;
        }
        let node_port = FrontendKey::node_port(key.ip.is_v4(), key.proto, key.port);
        // Node ports are open at the addresses of the Node object, host ports at every address that an interface of the node has.
        let is_open = |frontend: &&Arc<Frontend>| {
            self.node.has_node_ports(key.ip)
                || frontend.kind == FrontendKind::HostPort && self.address(key.ip).place == Place::Host
        };
        let frontend = self.frontends.get(&node_port).filter(is_open);
        frontend.map_or(ServiceLookup::NotAService, ServiceLookup::Frontend)
    }

    /// Returns the frontend of a packet that another node forwarded to this one without translation (direct server return): a
    /// frontend of an external address, or a node port at an address of that node.
    #[must_use]
    pub fn forwarded_frontend(&self, node: NodeId, key: FrontendKey) -> Option<&Arc<Frontend>> {
        if let Some(frontend) = self.frontends.get(&key) {
            return Some(frontend).filter(|frontend| frontend.kind.is_external());
        }
        let node_port = FrontendKey::node_port(key.ip.is_v4(), key.proto, key.port);
        let frontend = self.frontends.get(&node_port)?;
        let is_node_port = frontend.kind == FrontendKind::NodePort;
        (is_node_port && self.address(key.ip).place == Place::RemoteHost(node)).then_some(frontend)
    }

    /// Returns true if packets to an address may have been forwarded by another node: the address is that node's, or external
    /// frontends have it.
    #[must_use]
    pub fn may_be_forwarded(&self, node: NodeId, ip: Ip) -> bool {
        let external = |known: &Frontends| known.all > known.cluster;
        self.service_addresses.get(&ip).is_some_and(external) || self.address(ip).place == Place::RemoteHost(node)
    }

    /// Returns the node that forwards connections without a tunnel and has this MAC.
    #[inline]
    #[must_use]
    pub fn forwarder(&self, mac: MacAddr) -> Option<NodeId> {
        self.forwarders.get(&mac).copied()
    }

    /// Returns true if any node forwards connections without a tunnel.
    #[inline]
    #[must_use]
    pub fn has_forwarders(&self) -> bool {
        !self.forwarders.is_empty()
    }

    /// Returns true if an address is the cluster address of a Service.
    #[must_use]
    pub fn is_cluster_address(&self, ip: Ip) -> bool {
        self.service_addresses.get(&ip).is_some_and(|known| known.cluster > 0)
    }

    /// Returns the frontend of exactly this key.
    #[must_use]
    pub fn frontend_at(&self, key: FrontendKey) -> Option<&Arc<Frontend>> {
        self.frontends.get(&key)
    }

    /// Iterates over all frontends, in no particular order.
    pub fn frontends(&self) -> impl Iterator<Item = &Arc<Frontend>> {
        self.frontends.iter().map(|(_, f)| f)
    }

    /// Returns the policy and rule behind a rule's identifier.
    #[must_use]
    pub fn provenance(&self, rule: RuleId) -> Option<Arc<Provenance>> {
        match Provenance::fixed(rule) {
            Some(fixed) => Some(Arc::new(fixed)),
            None => self.provenance.get(&rule).cloned(),
        }
    }

    /// Returns another node.
    #[must_use]
    pub fn remote_node(&self, id: NodeId) -> Option<&Arc<RemoteNode>> {
        self.nodes.get(&id)
    }

    /// Iterates over the other nodes, in no particular order.
    pub fn remote_nodes(&self) -> impl Iterator<Item = (NodeId, &Arc<RemoteNode>)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// Returns the way of packets to another node; `None` if it cannot be reached. The way of IPv6 packets may be another one
    /// ([`node_path_for`](Self::node_path_for)); it is a tunnel if this one is.
    #[inline]
    #[must_use]
    pub fn node_path(&self, id: NodeId) -> Option<&NodePath> {
        self.node_paths.get(id.index())?.as_ref()
    }

    /// Returns the way of packets of one family to another node.
    #[inline]
    #[must_use]
    pub fn node_path_for(&self, id: NodeId, is_v4: bool) -> Option<&NodePath> {
        // Few clusters have nodes with two paths, so the table is empty in most.
        if !is_v4 && let Some(Some(path)) = self.node_paths_v6.get(id.index()) {
            return Some(path);
        }
        self.node_path(id)
    }

    /// Returns a next hop of the uplink.
    #[inline]
    #[must_use]
    pub fn next_hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.next_hops.get(id.index())?.as_ref()
    }

    /// Returns the next hop that is the neighbor of the uplink with this MAC.
    #[must_use]
    pub fn neighbor(&self, mac: MacAddr) -> Option<NextHopId> {
        self.neighbors.get(&mac).copied()
    }

    /// Returns the sizes of the tables.
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
