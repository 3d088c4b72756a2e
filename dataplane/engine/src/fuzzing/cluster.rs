//! The tables of the fuzzers' node: two pods and the host, a Service, and policies that the steps change.

use std::sync::Arc;

use heddle_port::PortId;
use heddle_tables::{
    AddressInfo, Backend, Backends, Cell, Direction, Endpoint, EndpointId, EndpointPolicy, Frontend, FrontendKey,
    FrontendKind, Generation, HostPort, IdentityId, Masquerade, NodeTable, PeerRules, Place, PolicySide,
    PolicySideBuilder, Prefix, RuleId, SnapshotBuilder, WorkerId,
};
use heddle_wire::testing::{ip, mac};
use heddle_wire::{Ip, MacAddr, Proto};

use crate::ingress::PortRole;

/// An endpoint of the node, which sends and receives packets at its port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    pub(crate) endpoint: EndpointId,
    pub(crate) port: PortId,
    pub(crate) mac: MacAddr,
    v4: &'static str,
    v6: &'static str,
}

impl Party {
    /// Returns the party's address of a family.
    pub(crate) fn ip(&self, v4: bool) -> Ip {
        ip(if v4 { self.v4 } else { self.v6 })
    }

    pub(crate) fn role(&self) -> PortRole {
        if self.endpoint.is_pod() {
            PortRole::Pod(self.endpoint)
        } else {
            PortRole::Host
        }
    }
}

const fn party(id: u16, port: u16, v4: &'static str, v6: &'static str) -> Party {
    Party {
        endpoint: EndpointId(id),
        port: PortId(port),
        mac: mac(port as u8),
        v4,
        v6,
    }
}

/// The host and two pods.
pub(crate) const PARTIES: [Party; 3] = [
    party(EndpointId::HOST.0, 0, "192.0.2.1", "2001:db8::1"),
    party(2, 10, "10.0.0.2", "fd00::2"),
    party(3, 11, "10.0.0.3", "fd00::3"),
];
/// The limit of the port numbers.
pub(crate) const PORTS: u16 = 16;
/// Destinations that are no parties: the Service, an address in the Service range without a Service, an address in the pod range
/// without a pod, an address outside of the cluster, the gateway.
pub(crate) const ELSEWHERE: [[&str; 2]; 5] = [
    ["10.96.0.10", "fd96::10"],
    ["10.96.0.11", "fd96::11"],
    ["10.0.0.99", "fd00::99"],
    ["198.51.100.7", "2001:db8:ffff::7"],
    ["169.254.1.1", "fe80::1"],
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

/// Sets the Service's backends.
pub(crate) fn serve(tables: &mut SnapshotBuilder, backends: &[&Party]) {
    for vip in ELSEWHERE[0].map(ip) {
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            let key = FrontendKey {
                ip: vip,
                proto,
                port: 80,
            };
            let list = backends.iter().map(|party| Backend {
                ip: party.ip(vip.is_v4()),
                port: 8080,
            });
            let frontend = Frontend::new(key, FrontendKind::ClusterIp, "shop/web", Backends::new(list, false));
            tables.set_frontend(Arc::new(frontend));
        }
    }
}

/// Returns tables without policies, in which both pods are the Service's backends.
pub(crate) fn tables(workers: u8) -> SnapshotBuilder {
    let mut b = SnapshotBuilder::new();
    let [host, pods @ ..] = &PARTIES;
    b.set_node(NodeTable {
        name: "node".into(),
        addresses: vec![host.ip(true), host.ip(false)],
        pod_cidrs: vec![Prefix::new(ip("10.0.0.0"), 24), Prefix::new(ip("fd00::"), 64)],
        service_cidrs: vec![Prefix::new(ip("10.96.0.0"), 16), Prefix::new(ip("fd96::"), 64)],
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
        ..NodeTable::default()
    });
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
    serve(&mut b, &[&pods[0], &pods[1]]);
    b
}
