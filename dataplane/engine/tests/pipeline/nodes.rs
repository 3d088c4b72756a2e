//! The other nodes of the tests, the outside, and packets between nodes, encapsulated and opened byte by byte.

use std::sync::Arc;

use heddle_tables::{
    AddressInfo, Exit, IdentityId, NextHop, NextHopId, NodeId, NodePath, Place, Prefix, RemoteNode, SnapshotBuilder,
    Unreachable,
};
use heddle_wire::testing::{Packet, assert_valid, ip, mac};
use heddle_wire::vxlan::{OuterHeader, PORT};
use heddle_wire::{Ip, MacAddr, Parsed, ether, parse};

use crate::tables::{HOST, OVERLAY_MTU, TUNNEL, UPLINK, UPLINK_MTU};

/// Another node.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    pub id: NodeId,
    pub address: &'static str,
    /// A pod of it that the tables know, and its identity.
    pub pod: &'static str,
    pub identity: IdentityId,
    pub pod_v6: &'static str,
    /// The MAC of inner frames to it.
    pub vtep: MacAddr,
}

/// Reached by a tunnel over IPv4, by the uplink.
pub const N1: Other = other(1, "192.0.2.11", "10.0.1.5", "fd00:1::5");
/// Reached without a tunnel.
pub const N2: Other = other(2, "192.0.2.12", "10.0.2.5", "fd00:2::5");
/// Reached by a tunnel over IPv6.
pub const N3: Other = other(3, "2001:db8::13", "10.0.3.5", "fd00:3::5");
/// Not reached: no heddle is known to run there.
pub const N4: Other = other(4, "192.0.2.14", "10.0.4.5", "fd00:4::5");
/// Reached by a tunnel whose packets the kernel routes, because the next hop is not resolved.
pub const N5: Other = other(5, "192.0.2.15", "10.0.5.5", "fd00:5::5");

const fn other(id: u16, address: &'static str, pod: &'static str, pod_v6: &'static str) -> Other {
    Other {
        id: NodeId(id),
        address,
        pod,
        identity: IdentityId(50 + id as u32),
        pod_v6,
        vtep: mac(0xd0 + id as u8),
    }
}

/// The neighbor of the uplink by which all other nodes are reached, and clients outside come.
pub const ROUTER: MacAddr = mac(0xc0);
pub const ROUTER_HOP: NextHopId = NextHopId(1);
/// A neighbor that the kernel does not know.
pub const STRANGER: MacAddr = mac(0xc9);
pub const CLIENT: &str = "198.51.100.7";

impl Other {
    pub fn address(&self) -> Ip {
        ip(self.address)
    }

    /// Returns the pod's address of the family of `peer`.
    pub fn pod(&self, peer: Ip) -> Ip {
        ip(if peer.is_v4() { self.pod } else { self.pod_v6 })
    }

    /// Returns a packet of the node's pod inside of a tunnel.
    pub fn pod_to(&self, dst: Ip) -> Packet {
        self.inside(self.pod(dst), dst)
    }

    /// Returns a packet inside of a tunnel from this node.
    pub fn inside(&self, src: Ip, dst: Ip) -> Packet {
        Packet::new(self.vtep, MacAddr::GATEWAY, src, dst)
    }

    /// Encapsulates a frame as this node does.
    pub fn encapsulate(&self, inner: &[u8]) -> Vec<u8> {
        self.outer()
            .udp(50_000, PORT, &[&header(TUNNEL.vni)[..], inner].concat())
    }

    /// Returns the outer packet of this node to the tests' node.
    pub fn outer(&self) -> Packet {
        Packet::new(ROUTER, UPLINK.mac, self.address(), HOST.ip(self.address()))
    }
}

/// Returns a VXLAN header.
pub fn header(vni: u32) -> [u8; 8] {
    let [_, a, b, c] = vni.to_be_bytes();
    [8, 0, 0, 0, a, b, c, 0]
}

/// Returns the path of packets to a node, as the compiler makes it.
pub fn path(other: &Other) -> Result<NodePath, Unreachable> {
    let uplink = NextHop {
        dst: ROUTER,
        src: UPLINK.mac,
        exit: Exit::Uplink,
    };
    let kernel = NextHop {
        dst: HOST.mac,
        src: MacAddr::GATEWAY,
        exit: Exit::Kernel,
    };
    let (hop, tunnel) = match other.id {
        id if id == N2.id => (uplink, false),
        id if id == N4.id => return Err(Unreachable::NoAnnotation),
        id if id == N5.id => (kernel, true),
        _ => (uplink, true),
    };
    let address = other.address();
    let outer = OuterHeader::new(HOST.ip(address), address, TUNNEL.port, TUNNEL.vni).unwrap();
    Ok(NodePath {
        outer: tunnel.then(|| outer.with_macs(hop.dst, hop.src)),
        next_hop: if tunnel {
            NextHop {
                dst: other.vtep,
                src: MacAddr::GATEWAY,
                ..hop
            }
        } else {
            hop
        },
        mtu: match (tunnel, address.is_v4()) {
            (false, _) => UPLINK_MTU,
            (true, true) => OVERLAY_MTU,
            (true, false) => OVERLAY_MTU - 20,
        },
    })
}

/// Sets the other nodes, their pods, and the next hops.
pub fn set(b: &mut SnapshotBuilder) {
    for node in [N1, N2, N3, N4, N5] {
        set_node(b, &node, path(&node));
        let n = node.id.0;
        b.set_range(Prefix::new(ip(&format!("10.0.{n}.0")), 24), Place::Node(node.id));
        b.set_range(Prefix::new(ip(&format!("fd00:{n}::")), 64), Place::Node(node.id));
        for pod in [node.pod, node.pod_v6] {
            let info = AddressInfo {
                identity: node.identity,
                place: Place::Node(node.id),
            };
            b.set_address(ip(pod), info);
        }
        let info = AddressInfo {
            identity: IdentityId::OUTSIDE,
            place: Place::RemoteHost(node.id),
        };
        b.set_address(node.address(), info);
    }
    let kernel = NextHop {
        dst: HOST.mac,
        src: MacAddr::GATEWAY,
        exit: Exit::Kernel,
    };
    b.set_next_hop(NextHopId::KERNEL, Some(kernel));
    let router = NextHop {
        dst: ROUTER,
        src: UPLINK.mac,
        exit: Exit::Uplink,
    };
    b.set_next_hop(ROUTER_HOP, Some(router));
    b.set_neighbor(ROUTER, Some(ROUTER_HOP));
}

/// Sets a node with this path.
pub fn set_node(b: &mut SnapshotBuilder, other: &Other, path: Result<NodePath, Unreachable>) {
    let node = RemoteNode {
        name: format!("node-{}", other.id).into(),
        address: Some(other.address()),
        takes_own: path.is_ok(),
        // A router leads to the nodes without a tunnel.
        takes_forwarded: path.is_ok_and(|path| path.outer.is_some()),
        path,
        path_v6: None,
    };
    b.set_remote_node(other.id, Some(Arc::new(node)));
}

/// Opens a packet to a node's tunnel: asserts the outer headers, and returns the inner frame, verified.
#[track_caller]
pub fn opened(frame: &[u8], to: &Other) -> (Vec<u8>, Parsed) {
    assert_valid(frame);
    let outer = parse(frame, frame.len()).unwrap();
    let macs = match to.id {
        id if id == N5.id => (HOST.mac, MacAddr::GATEWAY),
        _ => (ROUTER, UPLINK.mac),
    };
    assert_eq!(
        (ether::destination(frame), ether::source(frame)),
        (Some(macs.0), Some(macs.1))
    );
    assert_eq!((outer.src, outer.dst), (HOST.ip(to.address()), to.address()));
    assert_eq!((outer.dport, outer.dont_fragment, outer.ttl), (PORT, true, 64));
    assert!(outer.sport >= 49152, "{}", outer.sport);
    let at = outer.payload();
    assert_eq!(frame[at..at + 8], header(TUNNEL.vni));
    let inner = frame[at + 8..].to_vec();
    assert_valid(&inner);
    assert_eq!(ether::destination(&inner), Some(to.vtep));
    assert_eq!(ether::source(&inner), Some(MacAddr::GATEWAY));
    let p = parse(&inner, inner.len()).unwrap();
    (inner, p)
}
