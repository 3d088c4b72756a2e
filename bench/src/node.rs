//! The tables of the node of the measurements: clients and servers with policies, and Services.
//!
//! Every client may reach every server, but only by a rule: servers isolate ingress and clients egress, each with a rule for
//! the other's identity and a range of ports. Service `n` has four servers as backends, at a target port of its own, so
//! that with many Services one pod can have more connections than a port number has values.

use std::sync::Arc;

use heddle_port::PortId;
use heddle_tables::{
    AddressInfo, Backend, Backends, Cell, Endpoint, EndpointId, EndpointPolicy, Frontend, FrontendKey, FrontendKind,
    Generation, HostPort, IdentityId, Masquerade, NodeId, NodeTable, PeerRules, Place, PolicySide, PolicySideBuilder,
    PortRange, PortRules, PortSet, Prefix, RemoteNode, RuleId, Snapshot, SnapshotBuilder, Tunnel, Uplink, WorkerId,
};
use heddle_wire::{Ip, MacAddr, Proto};

/// The port of every Service.
pub const SERVICE_PORT: u16 = 80;
/// The target port of Service 0; Service `n` has `n` more.
pub const TARGET_PORT: u16 = 8000;
/// The last target port that policy allows.
const LAST_TARGET_PORT: u16 = 39_999;

const CLIENTS: IdentityId = IdentityId(16);
const SERVERS: IdentityId = IdentityId(17);
const DEFAULT_DENY: RuleId = RuleId(16);
const RULE: RuleId = RuleId(17);

/// The side of the connections that a pod is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Opens connections.
    Client,
    /// Accepts connections.
    Server,
}

/// A pod of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its endpoint id.
    pub endpoint: EndpointId,
    /// Its port.
    pub port: PortId,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its address.
    pub ip: Ip,
    /// Its side of the connections.
    pub side: Side,
}

impl Pod {
    /// Returns the `n`-th pod of a node.
    #[must_use]
    pub const fn new(n: u16, side: Side) -> Self {
        let [high, low] = (n + 2).to_be_bytes();
        Self {
            endpoint: EndpointId(n + 2),
            port: PortId(n + 1),
            mac: MacAddr([0x02, 0, 0, 0, high, low]),
            ip: Ip::from_v4([10, 0, high, low]),
            side,
        }
    }

    /// Returns the clients, followed by the servers.
    #[must_use]
    pub fn all(clients: u16, servers: u16) -> Vec<Self> {
        let client = |n| Self::new(n, Side::Client);
        let server = |n| Self::new(clients + n, Side::Server);
        (0..clients).map(client).chain((0..servers).map(server)).collect()
    }
}

/// Returns the address of Service `n`.
#[must_use]
pub const fn service_ip(n: u16) -> Ip {
    let [high, low] = (n + 1).to_be_bytes();
    Ip::from_v4([10, 96, high, low])
}

/// The tunnel's network.
pub const NETWORK: Tunnel = Tunnel { vni: 1, port: 4789 };
/// The other node.
pub const OTHER: NodeId = NodeId(1);
/// The MAC of this node's uplink.
pub const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 1]);
/// The port of the uplink.
pub const UPLINK_PORT: PortId = PortId(100);
/// The node's address.
pub const HOST: Ip = Ip::from_v4([192, 0, 2, 1]);

/// The number of backends of a Service.
const BACKENDS: usize = 4;

/// Builds the tables of a node with these pods and this number of Services, for UDP and TCP. Worker 0 owns all ports. With `other`, the
/// servers are on that node, and are reached by its path.
#[must_use]
pub fn tables(pods: &[Pod], services: u16, mtu: u16, other: Option<RemoteNode>) -> Arc<Snapshot> {
    let mut b = SnapshotBuilder::new();
    let host = HOST;
    b.set_node(NodeTable {
        name: "bench".into(),
        addresses: vec![host],
        pod_cidrs: vec![Prefix::new(Ip::from_v4([10, 0, 0, 0]), 16)],
        service_cidrs: vec![Prefix::new(Ip::from_v4([10, 96, 0, 0]), 16)],
        host: HostPort::default(),
        masquerade: Masquerade::default(),
        local_mtu: mtu,
        uplink_mtu: 1500,
        uplink: Uplink {
            mac: UPLINK_MAC,
            ports: Vec::new(),
        },
        tunnel: other.is_some().then_some(NETWORK),
        ..NodeTable::default()
    });
    b.set_address(
        host,
        AddressInfo {
            identity: IdentityId(1),
            place: Place::Host,
        },
    );
    b.set_range(Prefix::new(Ip::from_v4([10, 0, 0, 0]), 16), Place::Unreachable);
    let client = Arc::new(EndpointPolicy::new(PolicySide::open(), rule_for(SERVERS)));
    let server = Arc::new(EndpointPolicy::new(rule_for(CLIENTS), PolicySide::open()));
    for pod in pods {
        let (policy, identity) = match pod.side {
            Side::Client => (&client, CLIENTS),
            Side::Server => (&server, SERVERS),
        };
        if other.is_some() && pod.side == Side::Server {
            let place = Place::Node(OTHER);
            b.set_address(pod.ip, AddressInfo { identity, place });
            continue;
        }
        b.set_endpoint(Endpoint {
            id: pod.endpoint,
            generation: Generation(1),
            addresses: [pod.ip].into_iter().collect(),
            mac: pod.mac,
            port: pod.port,
            worker: WorkerId(0),
            mtu,
            name: format!("bench/{}", pod.ip).into(),
            policy: Some(Arc::clone(policy)),
        });
        b.set_address(
            pod.ip,
            AddressInfo {
                identity,
                place: Place::Local(pod.endpoint),
            },
        );
    }
    if let Some(address) = other.as_ref().and_then(|other| other.address) {
        b.set_endpoint(Endpoint {
            id: EndpointId::UPLINK,
            generation: Generation(1),
            addresses: [].into_iter().collect(),
            mac: UPLINK_MAC,
            port: UPLINK_PORT,
            worker: WorkerId(0),
            mtu: 1500,
            name: "uplink".into(),
            policy: None,
        });
        b.set_address(
            address,
            AddressInfo {
                identity: IdentityId::OUTSIDE,
                place: Place::RemoteHost(OTHER),
            },
        );
    }
    b.set_remote_node(OTHER, other.map(Arc::new));
    let servers: Vec<&Pod> = pods.iter().filter(|pod| pod.side == Side::Server).collect();
    for n in 0..services {
        let others = servers.iter().cycle().skip(usize::from(n) % servers.len().max(1));
        let list: Vec<Backend> = others
            .take(BACKENDS.min(servers.len()))
            .map(|pod| Backend {
                ip: pod.ip,
                port: TARGET_PORT + n,
            })
            .collect();
        for proto in [Proto::UDP, Proto::TCP] {
            let key = FrontendKey {
                ip: service_ip(n),
                proto,
                port: SERVICE_PORT,
            };
            let name = format!("bench/service-{n}");
            let backends = Backends::new(list.iter().copied(), false);
            b.set_frontend(Arc::new(Frontend::new(key, FrontendKind::ClusterIp, name, backends)));
        }
    }
    b.build().0
}

/// Returns an isolated policy side with one rule, which allows the target ports for this peer.
fn rule_for(peer: IdentityId) -> PolicySide {
    let ports = || {
        PortSet::new([PortRange {
            first: TARGET_PORT,
            last: LAST_TARGET_PORT,
            cell: Cell::allow(RULE),
        }])
    };
    let mut side = PolicySideBuilder::isolated(DEFAULT_DENY);
    side.set(
        peer,
        PeerRules::Ports(Box::new(PortRules {
            tcp: ports(),
            udp: ports(),
            ..PortRules::default()
        })),
    );
    side.side().clone()
}
