//! The tables of the tests' node: three pods and the host, and helpers for Services and policies.

use std::sync::Arc;

use heddle_port::PortId;
use heddle_tables::{
    AddressInfo, Backend, Backends, Cell, Direction, Endpoint, EndpointId, EndpointPolicy, Frontend, FrontendKey,
    FrontendKind, Generation, HostPort, IdentityId, Masquerade, NodeTable, PeerRules, Place, PolicySide,
    PolicySideBuilder, PortRange, PortRules, PortSet, Prefix, RuleId, SnapshotBuilder, Tunnel, Uplink, UplinkPort,
    WorkerId,
};
use heddle_wire::testing::{Packet, ip, mac};
use heddle_wire::{Ip, MacAddr, Proto};

/// An endpoint of the tests, which sends and receives packets at its port.
#[derive(Clone, Copy, Debug)]
pub struct Party {
    pub name: &'static str,
    pub endpoint: EndpointId,
    pub identity: IdentityId,
    pub port: PortId,
    pub mac: MacAddr,
    v4: &'static str,
    v6: &'static str,
}

impl Party {
    pub fn v4(&self) -> Ip {
        ip(self.v4)
    }

    pub fn v6(&self) -> Ip {
        ip(self.v6)
    }

    /// Returns the party's address of the family of `peer`.
    pub fn ip(&self, peer: Ip) -> Ip {
        if peer.is_v4() { self.v4() } else { self.v6() }
    }

    /// Returns a packet from the party to `dst`, by the gateway.
    pub fn to(&self, dst: Ip) -> Packet {
        Packet::new(self.mac, MacAddr::GATEWAY, self.ip(dst), dst)
    }
}

const fn party(name: &'static str, id: u16, mac_end: u8, v4: &'static str, v6: &'static str) -> Party {
    Party {
        name,
        endpoint: EndpointId(id),
        identity: IdentityId(id as u32),
        port: PortId(id + 8),
        mac: mac(mac_end),
        v4,
        v6,
    }
}

/// The pods.
pub const A: Party = party("a", 2, 2, "10.0.0.2", "fd00::2");
pub const B: Party = party("b", 3, 3, "10.0.0.3", "fd00::3");
pub const C: Party = party("c", 4, 4, "10.0.0.4", "fd00::4");
/// The node itself. Its host port has a queue for each worker, numbered by the worker's id.
pub const HOST: Party = Party {
    name: "host",
    endpoint: EndpointId::HOST,
    identity: IdentityId(1),
    port: PortId(0),
    mac: mac(0xf0),
    v4: "192.0.2.1",
    v6: "2001:db8::1",
};
pub const PODS: [Party; 3] = [A, B, C];

pub const MASQUERADE_V4: &str = "169.254.2.2";
pub const MASQUERADE_V6: &str = "fd01::2";
pub const MASQUERADE_PORTS: (u16, u16) = (61000, 61003);
/// Large enough for packets of several frames.
pub const LOCAL_MTU: u16 = 61000;
pub const UPLINK_MTU: u16 = 1500;
pub const OVERLAY_MTU: u16 = 1450;
/// The limit of the port numbers.
pub const PORTS: u16 = 16;

/// The uplink. It has one queue, which the last worker owns.
pub const UPLINK: Party = Party {
    name: "uplink",
    endpoint: EndpointId::UPLINK,
    identity: IdentityId::OUTSIDE,
    port: PortId(14),
    mac: mac(0xe0),
    v4: "192.0.2.1",
    v6: "2001:db8::1",
};
pub const TUNNEL: Tunnel = Tunnel { vni: 77, port: 4789 };
/// The MAC of inner frames to the node of the tests.
pub const OWN_VTEP: MacAddr = mac(0xd0);

/// Returns the worker that owns a pod's port.
pub fn worker_of(pod: &Party, workers: u8) -> WorkerId {
    WorkerId(((pod.endpoint.0 - 2) % u16::from(workers)) as u8)
}

/// Returns the tables of a node without policies.
pub fn node(workers: u8) -> SnapshotBuilder {
    let mut b = SnapshotBuilder::new();
    b.set_node(NodeTable {
        name: "node-1".into(),
        addresses: vec![HOST.v4(), HOST.v6(), ip("10.0.255.1")],
        pod_cidrs: vec![Prefix::new(ip("10.0.0.0"), 24), Prefix::new(ip("fd00::"), 64)],
        service_cidrs: vec![Prefix::new(ip("10.96.0.0"), 16), Prefix::new(ip("fd96::"), 64)],
        unmasqueraded: vec![
            Prefix::new(ip("203.0.113.128"), 25),
            Prefix::new(ip("2001:db8:aa::"), 48),
        ],
        host: HostPort {
            mac: HOST.mac,
            addresses: [ip("10.0.255.1")].into_iter().collect(),
        },
        masquerade: Masquerade {
            addresses: [ip(MASQUERADE_V4), ip(MASQUERADE_V6)].into_iter().collect(),
            ports: MASQUERADE_PORTS,
        },
        local_mtu: LOCAL_MTU,
        uplink_mtu: UPLINK_MTU,
        uplink: Uplink {
            mac: UPLINK.mac,
            ports: vec![UplinkPort {
                port: UPLINK.port,
                worker: WorkerId(workers - 1),
            }],
        },
        tunnel: Some(TUNNEL),
        vtep: Some(OWN_VTEP),
    });
    b.set_endpoint(Endpoint {
        addresses: [].into_iter().collect(),
        ..endpoint(&UPLINK, WorkerId(workers - 1), Generation(0), None)
    });
    for pod in &PODS {
        b.set_endpoint(endpoint(
            pod,
            worker_of(pod, workers),
            Generation(0),
            Some(Arc::new(EndpointPolicy::open())),
        ));
        for addr in [pod.v4(), pod.v6()] {
            b.set_address(
                addr,
                AddressInfo {
                    identity: pod.identity,
                    place: Place::Local(pod.endpoint),
                },
            );
        }
    }
    b.set_endpoint(endpoint(&HOST, WorkerId(0), Generation(0), None));
    for addr in [HOST.v4(), HOST.v6(), ip("10.0.255.1")] {
        b.set_address(
            addr,
            AddressInfo {
                identity: HOST.identity,
                place: Place::Host,
            },
        );
    }
    b.set_range(Prefix::new(ip("10.0.0.0"), 24), Place::Unreachable);
    b.set_range(Prefix::new(ip("fd00::"), 64), Place::Unreachable);
    b
}

pub fn endpoint(
    party: &Party,
    worker: WorkerId,
    generation: Generation,
    policy: Option<Arc<EndpointPolicy>>,
) -> Endpoint {
    Endpoint {
        id: party.endpoint,
        generation,
        addresses: [party.v4(), party.v6()].into_iter().collect(),
        mac: party.mac,
        port: party.port,
        worker,
        mtu: if party.endpoint.is_pod() { LOCAL_MTU } else { UPLINK_MTU },
        name: party.name.into(),
        policy,
    }
}

/// Returns a ClusterIP frontend with these backends.
pub fn frontend(addr: &str, proto: Proto, port: u16, backends: &[(Ip, u16)], elsewhere: bool) -> Arc<Frontend> {
    Arc::new(external(
        FrontendKind::ClusterIp,
        addr,
        proto,
        port,
        backends,
        elsewhere,
    ))
}

/// Returns a frontend of any kind. `0.0.0.0` and `::` stand for the node's addresses.
pub fn external(
    kind: FrontendKind,
    addr: &str,
    proto: Proto,
    port: u16,
    backends: &[(Ip, u16)],
    elsewhere: bool,
) -> Frontend {
    let key = FrontendKey {
        ip: ip(addr),
        proto,
        port,
    };
    Frontend::new(key, kind, "shop/web", list(backends, elsewhere))
}

/// Backends in any order.
pub fn list(backends: &[(Ip, u16)], elsewhere: bool) -> Backends {
    Backends::new(backends.iter().map(|&(ip, port)| Backend { ip, port }), elsewhere)
}

/// The rule that denies in the tests' policies.
pub const DEFAULT_DENY: RuleId = RuleId(16);
/// The rule that matches a peer in the tests' policies.
pub const RULE: RuleId = RuleId(17);

/// Returns a policy that isolates one direction and allows these pairs of a peer and a TCP port. Port 0 stands for all traffic.
pub fn isolate(direction: Direction, allowed: &[(&Party, u16)]) -> Arc<EndpointPolicy> {
    isolate_with(direction, Cell::allow(RULE), allowed)
}

/// Returns a policy that isolates one direction and has `cell` for these pairs of a peer and a TCP port. Port 0 stands for all
/// traffic.
pub fn isolate_with(direction: Direction, cell: Cell, pairs: &[(&Party, u16)]) -> Arc<EndpointPolicy> {
    let mut side = PolicySideBuilder::isolated(DEFAULT_DENY);
    for (peer, port) in pairs {
        let answer = match *port {
            0 => PeerRules::Every(cell),
            port => PeerRules::Ports(Box::new(PortRules {
                tcp: PortSet::new([PortRange {
                    first: port,
                    last: port,
                    cell,
                }]),
                ..PortRules::default()
            })),
        };
        side.set(peer.identity, answer);
    }
    let side = side.side().clone();
    Arc::new(match direction {
        Direction::Ingress => EndpointPolicy::new(side, PolicySide::open()),
        Direction::Egress => EndpointPolicy::new(PolicySide::open(), side),
    })
}
