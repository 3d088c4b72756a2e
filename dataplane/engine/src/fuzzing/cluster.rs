//! The tables of the fuzzers' node: two pods, the host and the uplink, a Service, and policies that the steps change. [`super::others`]
//! has the other nodes.

use std::sync::Arc;

use heddle_tables::{
    AddressInfo, Backend, Backends, Cell, Direction, Endpoint, EndpointPolicy, Frontend, FrontendKey, FrontendKind,
    Generation, HostPort, IdentityId, Masquerade, NodeTable, PeerRules, Place, PolicySide, PolicySideBuilder, Prefix,
    RuleId, SnapshotBuilder, Uplink, UplinkPort, WorkerId,
};
use heddle_wire::Proto;
use heddle_wire::testing::ip;

use super::others::{self, OTHERS, TUNNEL};
use super::parties::{PARTIES, Party, UPLINK};

/// The limit of the port numbers.
pub(crate) const PORTS: u16 = 16;
/// Destinations that are no parties: the Service, an address in the Service range without a Service, an address in the pod range
/// without a pod, an address outside of the cluster, the gateway, and the pods and own addresses of other nodes.
pub(crate) const ELSEWHERE: [[&str; 2]; 10] = [
    ["10.96.0.10", "fd96::10"],
    ["10.96.0.11", "fd96::11"],
    ["10.0.0.99", "fd00::99"],
    ["198.51.100.7", "2001:db8:ffff::7"],
    ["169.254.1.1", "fe80::1"],
    OTHERS[0].pod,
    OTHERS[1].pod,
    OTHERS[2].pod,
    OTHERS[0].own,
    OTHERS[1].own,
];

/// Returns the worker that owns a party's port.
pub(crate) const fn worker_of(party: &Party, workers: u8) -> WorkerId {
    WorkerId((party.endpoint.0 % workers as u16) as u8)
}

pub(crate) fn endpoint(party: &Party, workers: u8, generation: u32, mtu: u16, policy: EndpointPolicy) -> Endpoint {
    Endpoint {
        id: party.endpoint,
        generation: Generation(generation),
        addresses: [party.ip(true), party.ip(false)].into_iter().collect(),
        mac: party.mac,
        port: party.port,
        worker: worker_of(party, workers),
        mtu,
        name: format!("{:?}", party.endpoint).into(),
        policy: party.endpoint.is_pod().then(|| Arc::new(policy)),
    }
}

/// Returns a policy for one direction that allows one party, or none.
pub(crate) fn isolate(direction: Direction, allowed: Option<&Party>) -> EndpointPolicy {
    let mut side = PolicySideBuilder::isolated(RuleId(16));
    if let Some(party) = allowed {
        side.set(identity(party), PeerRules::Every(Cell::allow(RuleId(17))));
    }
    let side = side.side().clone();
    match direction {
        Direction::Ingress => EndpointPolicy::new(side, PolicySide::open()),
        Direction::Egress => EndpointPolicy::new(PolicySide::open(), side),
    }
}

fn identity(party: &Party) -> IdentityId {
    IdentityId(u32::from(party.endpoint.0) + 1)
}

/// The addresses of the Service's backends that can be chosen, IPv4 and IPv6: the parties and the pods of other nodes.
pub(crate) const BACKENDS: [[&str; 2]; 6] = [
    [PARTIES[0].v4, PARTIES[0].v6],
    [PARTIES[1].v4, PARTIES[1].v6],
    [PARTIES[2].v4, PARTIES[2].v6],
    OTHERS[0].pod,
    OTHERS[1].pod,
    OTHERS[2].pod,
];

/// Sets the Service's backends: the ones of [`BACKENDS`] whose bits are set in `which`. The Service has a cluster IP and a node port,
/// the latter with direct server return if the next bit is set.
pub(crate) fn serve(tables: &mut SnapshotBuilder, which: u8) {
    for (kind, addresses, port) in [
        (FrontendKind::ClusterIp, ELSEWHERE[0], 80),
        (FrontendKind::NodePort, ["0.0.0.0", "::"], 1001),
    ] {
        for (family, address) in addresses.map(ip).into_iter().enumerate() {
            for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
                let key = FrontendKey {
                    ip: address,
                    proto,
                    port,
                };
                let chosen = BACKENDS.iter().enumerate().filter(|(n, _)| which >> n & 1 == 1);
                let list = chosen.filter_map(|(_, backend)| {
                    Some(Backend {
                        ip: ip(backend.get(family)?),
                        port: 8080,
                    })
                });
                let mut frontend = Frontend::new(key, kind, "shop/web", Backends::new(list, false));
                if kind == FrontendKind::NodePort {
                    let pods = PARTIES[1..].iter().map(|pod| pod.ip(family == 0));
                    let here = frontend
                        .backends
                        .list()
                        .iter()
                        .filter(|b| pods.clone().any(|pod| pod == b.ip));
                    let here: Vec<Backend> = here.copied().collect();
                    frontend.here = (!here.is_empty()).then(|| Arc::new(Backends::new(here, true)));
                    frontend.direct_return = which >> BACKENDS.len() & 1 == 1;
                }
                tables.set_frontend(Arc::new(frontend));
            }
        }
    }
}

/// Sets the uplink's generation.
pub(crate) fn raise_uplink(tables: &mut SnapshotBuilder, workers: u8, generation: u32) {
    tables.set_endpoint(Endpoint {
        addresses: [].into_iter().collect(),
        policy: None,
        ..endpoint(&UPLINK, workers, generation, 1500, EndpointPolicy::open())
    });
}

/// Returns tables without policies, in which both pods are the Service's backends.
pub(crate) fn tables(workers: u8) -> SnapshotBuilder {
    let mut b = SnapshotBuilder::new();
    let host = &PARTIES[0];
    b.set_node(NodeTable {
        name: "node".into(),
        addresses: vec![host.ip(true), host.ip(false)],
        pod_cidrs: vec![Prefix::new(ip("10.0.0.0"), 24), Prefix::new(ip("fd00::"), 64)],
        service_cidrs: vec![Prefix::new(ip("10.96.0.0"), 16), Prefix::new(ip("fd96::"), 64)],
        unmasqueraded: vec![
            Prefix::new(ip("203.0.113.128"), 25),
            Prefix::new(ip("2001:db8:aa::"), 48),
        ],
        host: HostPort {
            mac: host.mac,
            addresses: [ip("10.0.255.1")].into_iter().collect(),
        },
        masquerade: Masquerade {
            addresses: [ip("169.254.2.2"), ip("fd01::2")].into_iter().collect(),
            ports: (61000, 61003),
        },
        local_mtu: 61_000,
        uplink_mtu: 1500,
        uplink: Uplink {
            mac: UPLINK.mac,
            ports: vec![UplinkPort {
                port: UPLINK.port,
                worker: worker_of(&UPLINK, workers),
            }],
        },
        tunnel: Some(TUNNEL),
        vtep: None,
    });
    raise_uplink(&mut b, workers, 0);
    others::set_all(&mut b);
    // The endpoints and their addresses.
    for party in &PARTIES {
        let mtu = if party.endpoint.is_pod() { 61_000 } else { 1500 };
        b.set_endpoint(endpoint(party, workers, 0, mtu, EndpointPolicy::open()));
        let place = if party.endpoint.is_pod() {
            Place::Local(party.endpoint)
        } else {
            Place::Host
        };
        for v4 in [true, false] {
            let info = AddressInfo {
                identity: identity(party),
                place,
            };
            b.set_address(party.ip(v4), info);
        }
    }
    // All other addresses of the pod ranges have no pod.
    b.set_range(Prefix::new(ip("10.0.0.0"), 24), Place::Unreachable);
    b.set_range(Prefix::new(ip("fd00::"), 64), Place::Unreachable);
    serve(&mut b, 0b110);
    b
}
