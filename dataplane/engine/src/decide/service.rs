//! Finds the target of a connection: a backend if the destination is a Service, else the destination itself.
//!
//! With direct server return, a connection of a client outside keeps its source address. If its backend is on another node, this
//! node forwards it there without translation. That node finds the same Service, makes the same choice, and takes one of its own
//! backends if its tables differ.

use heddle_flow::{AffinityTable, Millis, Origin};
use heddle_tables::{
    AddressInfo, Affinity, Backend, Backends, Balancing, Choice, Client, Frontend, FrontendKey, NodeId, Place,
    ServiceLookup, Snapshot,
};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};

use super::anti_spoof::forwarder;
use super::types::{Query, Target};
use crate::reason::DropReason;

/// The result of looking a destination up in the Service tables.
pub(super) enum Lookup {
    /// The connection goes to this target.
    Target(Target),
    /// The Service has no such port, or no endpoint at all.
    Reject,
    /// The Service's source ranges do not admit the client, or its traffic policy excludes all endpoints on this node.
    Drop(DropReason),
}

/// The inputs of a choice of backend besides the connection.
#[derive(Clone, Copy, Default)]
pub struct BackendSelector<'a> {
    /// 64 random bits, for Services that choose at random.
    pub chance: u64,
    /// The table of session affinities, and the time. `None` means that no client has an affinity.
    pub memory: Option<(AffinityTable<'a>, Millis)>,
}

/// Finds the endpoint that a connection goes to behind its destination address.
pub(super) fn target(snapshot: &Snapshot, q: &Query, src: AddressInfo, selector: BackendSelector<'_>) -> Lookup {
    let t = &q.tuple;
    let forwarded_by = forwarder(snapshot, q);
    let frontend = match frontend_of(snapshot, q, forwarded_by) {
        // Forwarded packets are for Services alone.
        ServiceLookup::NotAService if forwarded_by.is_some() => return Lookup::Drop(DropReason::NoRoute),
        ServiceLookup::NotAService => return Lookup::Target(Target::direct(t.dst, t.dport)),
        ServiceLookup::NoSuchPort => return Lookup::Reject,
        ServiceLookup::Frontend(frontend) => frontend,
    };
    if !frontend.admits(t.src) {
        return Lookup::Drop(DropReason::ServiceSourceRange);
    }
    if forwarded_by.is_some() {
        return match choose_here(frontend, q, selector) {
            Some(backend) => Lookup::Target(target_here(frontend, *backend)),
            None => Lookup::Drop(DropReason::ServiceNoLocalEndpoint),
        };
    }
    // Both nodes of a connection that is forwarded must choose alike.
    let balancing = match returns_directly(frontend, q, src.place) {
        true => Balancing::Maglev,
        false => frontend.balancing,
    };
    let backends = frontend.backends_for(Client::from(src.place));
    match choose(frontend, backends, q, selector, balancing) {
        Choice::Reject => Lookup::Reject,
        Choice::Drop => Lookup::Drop(DropReason::ServiceNoLocalEndpoint),
        Choice::Backend(backend) => Lookup::Target(target_for(snapshot, q, frontend, *backend, src.place)),
    }
}

/// Returns the target of a connection to a frontend whose backend is chosen.
#[must_use]
pub fn target_of(snapshot: &Snapshot, q: &Query, frontend: &Frontend, backend: Backend) -> Target {
    match forwarder(snapshot, q) {
        Some(_) => target_here(frontend, backend),
        None => target_for(snapshot, q, frontend, backend, snapshot.address(q.tuple.src).place),
    }
}

/// Returns the target at the node that a connection was forwarded to: it answers the client directly.
const fn target_here(frontend: &Frontend, backend: Backend) -> Target {
    Target {
        dst: backend.ip,
        dport: backend.port,
        service: true,
        sticky: frontend.affinity.is_some(),
        masquerade: false,
        forwarded: false,
    }
}

/// Returns the target of a client's connection at the node that it comes to.
fn target_for(snapshot: &Snapshot, q: &Query, frontend: &Frontend, backend: Backend, client: Place) -> Target {
    let mut target = Target {
        masquerade: frontend.masquerades(Client::from(client)),
        ..target_here(frontend, backend)
    };
    if returns_directly(frontend, q, client) {
        let place = snapshot.address(backend.ip).place;
        target.forwarded = takes_forwarded(snapshot, place);
        target.masquerade &= !target.forwarded && !matches!(place, Place::Local(_));
    }
    target
}

/// Returns true if the backends of a frontend answer the client of a connection directly. A client whose packets come in by the uplink
/// is behind it, so the answers of other nodes reach it too.
fn returns_directly(frontend: &Frontend, q: &Query, client: Place) -> bool {
    frontend.returns_directly() && q.origin == Origin::UPLINK && client == Place::Outside
}

/// Returns the Service at a connection's destination. A connection that another node forwarded goes to a Service of that node.
#[must_use]
pub fn service_at<'a>(snapshot: &'a Snapshot, q: &Query) -> ServiceLookup<'a> {
    frontend_of(snapshot, q, forwarder(snapshot, q))
}

/// Returns the frontend that a connection goes to. `forwarded_by` is the node that forwarded it.
fn frontend_of<'a>(snapshot: &'a Snapshot, q: &Query, forwarded_by: Option<NodeId>) -> ServiceLookup<'a> {
    let t = &q.tuple;
    let Some(node) = forwarded_by else {
        return snapshot.frontend(t.dst, q.proto, t.dport);
    };
    let key = FrontendKey {
        ip: t.dst,
        proto: q.proto,
        port: t.dport,
    };
    let found = snapshot.forwarded_frontend(node, key);
    found.map_or(ServiceLookup::NotAService, ServiceLookup::Frontend)
}

/// Returns true if connections may be forwarded without translation to an address at this place.
pub(super) fn takes_forwarded(snapshot: &Snapshot, place: Place) -> bool {
    let Place::Node(id) = place else {
        return false;
    };
    snapshot
        .remote_node(id)
        .is_some_and(|node| node.takes_forwarded && node.path.is_ok())
}

/// Chooses a backend of this node for a connection that another node forwarded. That node chose among all backends; its choice is
/// this node's too, unless the two nodes have different tables.
fn choose_here<'a>(frontend: &'a Frontend, q: &Query, selector: BackendSelector<'_>) -> Option<&'a Backend> {
    let here = frontend.here.as_deref()?;
    let among = |backends: &'a Backends| match choose(frontend, backends, q, selector, Balancing::Maglev) {
        Choice::Backend(backend) => Some(backend),
        Choice::Reject | Choice::Drop => None,
    };
    among(&frontend.backends)
        .filter(|backend| here.list().binary_search(backend).is_ok())
        .or_else(|| among(here))
}

fn choose<'a>(
    frontend: &Frontend,
    backends: &'a Backends,
    q: &Query,
    selector: BackendSelector<'_>,
    balancing: Balancing,
) -> Choice<'a> {
    let Some(affinity) = frontend.affinity else {
        return backends.pick(match balancing {
            Balancing::Maglev => connection_hash(&q.tuple, q.proto),
            Balancing::Random => selector.chance,
        });
    };
    let client = q.tuple.src;
    if let Some(chosen) = remembered(backends, affinity, client, selector) {
        return Choice::Backend(chosen);
    }
    backends.pick(match balancing {
        // Hash the client and not the connection, so that a client without an entry in the table keeps its backend too. The
        // choice also depends on the period, so that the client may get another backend after the timeout (as with kube-proxy).
        Balancing::Maglev => client_hash(client, affinity, period(affinity, selector)),
        Balancing::Random => selector.chance,
    })
}

/// Returns the client's last backend, if it may still be chosen.
fn remembered<'a>(
    backends: &'a Backends,
    affinity: Affinity,
    client: Ip,
    selector: BackendSelector<'_>,
) -> Option<&'a Backend> {
    let (table, now) = selector.memory?;
    let (ip, port) = table.find(client, affinity.service, now, u64::from(affinity.seconds) * 1000)?;
    let at = backends.list().binary_search(&Backend { ip, port }).ok()?;
    backends.list().get(at)
}

/// Records the backend of a new connection for its client, whose next connection goes there too.
pub(crate) fn remember(snapshot: &Snapshot, q: &Query, target: &Target, memory: AffinityTable<'_>, now: Millis) {
    if !target.sticky {
        return;
    }
    if let ServiceLookup::Frontend(frontend) = service_at(snapshot, q)
        && let Some(affinity) = frontend.affinity
    {
        memory.record(q.tuple.src, affinity.service, (target.dst, target.dport), now);
    }
}

/// Returns the number of the current period: time is cut into periods as long as the affinity's timeout. Returns 0 without a clock.
fn period(affinity: Affinity, selector: BackendSelector<'_>) -> u64 {
    let length = (u64::from(affinity.seconds) * 1000).max(1);
    selector.memory.map_or(0, |(_, now)| now.0 / length)
}

/// Returns the hash of a client of a Service with session affinity in one period.
fn client_hash(client: Ip, affinity: Affinity, period: u64) -> u64 {
    let ports = affinity.service;
    let mut dst = [0; 16];
    dst[8..].copy_from_slice(&period.to_be_bytes());
    let tuple = Tuple {
        src: client,
        dst: Ip::from_v6(dst),
        sport: (ports >> 48) as u16,
        dport: (ports >> 32) as u16,
    };
    connection_hash(&tuple, Proto::TCP)
}

/// Returns the hash by which a backend is chosen. It covers the whole tuple and has no seed, so that all nodes make the same
/// choice, also after a reboot.
///
/// It takes two rounds of a folded 64 x 64 bit multiplication over the halves of the addresses. The constants are the first digits
/// of pi; others would do as well. The hash need not be secret: a client can reach a chosen backend by trying source ports anyway.
#[must_use]
pub fn connection_hash(t: &Tuple, proto: Proto) -> u64 {
    const K: [u64; 5] = [
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
    ];
    fn fold(a: u64, b: u64) -> u64 {
        let wide = u128::from(a) * u128::from(b);
        (wide as u64) ^ (wide >> 64) as u64
    }
    let (src, dst) = (u128::from_be_bytes(t.src.octets()), u128::from_be_bytes(t.dst.octets()));
    let ports = u64::from(t.sport) << 32 | u64::from(t.dport) << 16 | u64::from(proto.0);
    let a = fold((src >> 64) as u64 ^ K[0], src as u64 ^ K[1]);
    let b = fold((dst >> 64) as u64 ^ K[2], dst as u64 ^ K[3]);
    fold(a ^ ports ^ K[4], b ^ K[0].rotate_left(32))
}

#[cfg(test)]
mod tests {
    use heddle_wire::Ip;

    use super::*;

    fn tuple(sport: u16) -> Tuple {
        Tuple {
            src: Ip::from_v4([10, 0, 0, 1]),
            dst: Ip::from_v4([10, 96, 0, 1]),
            sport,
            dport: 443,
        }
    }

    #[test]
    fn the_hash_is_the_same_on_every_node_and_in_every_release() {
        // A constant: with another hash after an upgrade, nodes of two versions would choose different backends.
        assert_eq!(connection_hash(&tuple(40000), Proto::TCP), HASH);
        assert_ne!(connection_hash(&tuple(40000), Proto::UDP), HASH);
        assert_ne!(connection_hash(&tuple(40000).reversed(), Proto::TCP), HASH);
    }

    const HASH: u64 = 0x2f3a_da5c_4846_797c;

    #[test]
    fn neighbouring_source_ports_spread_evenly() {
        const BUCKETS: u64 = 16;
        let mut count = [0_u32; BUCKETS as usize];
        for sport in 0..16_000 {
            let slot = (u128::from(connection_hash(&tuple(sport), Proto::TCP)) * u128::from(BUCKETS)) >> 64;
            count[slot as usize] += 1;
        }
        for c in count {
            assert!((850..1150).contains(&c), "{count:?}");
        }
    }
}
