//! The other nodes of the fuzzers' node, and packets as they come in by the uplink and leave by it.

use std::sync::Arc;

use heddle_tables::{
    AddressInfo, Exit, IdentityId, NextHop, NextHopId, NodeId, NodePath, Place, Prefix, RemoteNode, SnapshotBuilder,
    Tunnel, Unreachable,
};
use heddle_wire::testing::{Packet, ip, mac};
use heddle_wire::vxlan::{self, OuterHeader};
use heddle_wire::{Ip, MacAddr, Proto, parse};

use super::parties::{PARTIES, UPLINK};

/// Another node: its pod and its own addresses, IPv4 and IPv6.
pub(crate) struct Other {
    pub(crate) pod: [&'static str; 2],
    pub(crate) own: [&'static str; 2],
    /// The ranges of its pods.
    ranges: [(&'static str, u8); 2],
    /// The index in `own` of the address that its tunnel has.
    family: usize,
}

/// A node with a tunnel over IPv4, one with a tunnel over IPv6, and one that sends without a tunnel.
pub(crate) const OTHERS: [Other; 3] = [
    Other {
        pod: ["10.0.1.5", "fd00:1::5"],
        own: ["192.0.2.11", "2001:db8::11"],
        ranges: [("10.0.1.0", 24), ("fd00:1::", 64)],
        family: 0,
    },
    Other {
        pod: ["10.0.2.5", "fd00:2::5"],
        own: ["192.0.2.12", "2001:db8::12"],
        ranges: [("10.0.2.0", 24), ("fd00:2::", 64)],
        family: 1,
    },
    Other {
        pod: ["10.0.3.5", "fd00:3::5"],
        own: ["192.0.2.13", "2001:db8::13"],
        ranges: [("10.0.3.0", 24), ("fd00:3::", 64)],
        family: 0,
    },
];
pub(crate) const TUNNEL: Tunnel = Tunnel {
    vni: 77,
    port: vxlan::PORT,
};
/// The neighbor of the uplink by which everything comes in.
pub(crate) const ROUTER: MacAddr = mac(0xc0);
const ROUTER_HOP: NextHopId = NextHopId(1);

/// The sender of a packet.
#[derive(Clone, Copy)]
pub(crate) enum Sender {
    /// A party, by its own port.
    Party(usize),
    /// Another node, by its tunnel.
    Tunnel(usize),
    /// Another node or the outside, by the uplink without a tunnel.
    Plain,
}

impl Sender {
    /// Returns the index in `LINKS` of the port that the sender's packets come in by.
    pub(crate) const fn link(self) -> usize {
        match self {
            Self::Party(party) => party,
            Self::Tunnel(_) | Self::Plain => PARTIES.len(),
        }
    }

    /// Returns a frame as it comes in by that port: by a tunnel with outer headers.
    pub(crate) fn wrap(self, frame: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Tunnel(node) => encapsulate(node, &frame),
            Self::Party(_) | Self::Plain => frame,
        }
    }
}

/// Encapsulates a frame as another node does. A frame that is too long for one datagram stays as it is.
pub(crate) fn encapsulate(node: usize, frame: &[u8]) -> Vec<u8> {
    if frame.len() > 65_000 {
        return frame.to_vec();
    }
    let other = &OTHERS[node];
    let src = ip(other.own[other.family]);
    let outer = Packet::new(ROUTER, UPLINK.mac, src, PARTIES[0].ip(src.is_v4()));
    let [_, a, b, c] = TUNNEL.vni.to_be_bytes();
    let header = [8, 0, 0, 0, a, b, c, 0];
    outer.udp(50_000, TUNNEL.port, &[&header[..], frame].concat())
}

/// Returns the inner frame of a packet of the tunnel.
pub(crate) fn opened(frame: &[u8]) -> Option<&[u8]> {
    let outer = parse(frame, frame.len()).ok()?;
    if outer.proto != Proto::UDP || outer.dport != TUNNEL.port {
        return None;
    }
    let at = vxlan::open(frame, &outer, TUNNEL.vni).ok()?;
    frame.get(at..outer.end())
}

/// Returns true if a packet goes from this node to the tunnel's port of another one.
pub(crate) fn is_own_tunnel(frame: &[u8]) -> bool {
    parse(frame, frame.len()).is_ok_and(|p| {
        let to_other = OTHERS.iter().flat_map(|other| other.own).any(|own| ip(own) == p.dst);
        let from_host = PARTIES[0].ip(p.src.is_v4()) == p.src;
        to_other && from_host && p.proto == Proto::UDP && p.dport == TUNNEL.port
    })
}

/// Sets all other nodes, the next hops and the neighbor.
pub(crate) fn set_all(b: &mut SnapshotBuilder) {
    for (n, other) in OTHERS.iter().enumerate() {
        let what = if n == 2 { 1 } else { 0 };
        set(b, n, what);
        let id = id(n);
        let mut set_address = |address: &str, identity, place| {
            b.set_address(ip(address), AddressInfo { identity, place });
        };
        for pod in other.pod {
            set_address(pod, IdentityId(50 + n as u32), Place::Node(id));
        }
        for own in other.own {
            set_address(own, IdentityId::OUTSIDE, Place::RemoteHost(id));
        }
        for (range, bits) in other.ranges {
            b.set_range(Prefix::new(ip(range), bits), Place::Node(id));
        }
    }
    b.set_next_hop(NextHopId::KERNEL, Some(hop(Exit::Kernel)));
    b.set_next_hop(ROUTER_HOP, Some(hop(Exit::Uplink)));
    b.set_neighbor(ROUTER, Some(ROUTER_HOP));
}

/// Sets the way to another node: by a tunnel, directly, by a tunnel that the kernel routes, or none.
pub(crate) fn set(b: &mut SnapshotBuilder, node: usize, what: u8) {
    let other = &OTHERS[node];
    let address = ip(other.own[other.family]);
    let path = match what % 4 {
        0 => tunnel(address, Exit::Uplink),
        1 => Ok(NodePath {
            outer: None,
            next_hop: hop(Exit::Uplink),
            mtu: 1500,
        }),
        2 => tunnel(address, Exit::Kernel),
        _ => Err(Unreachable::NoAnnotation),
    };
    let remote = RemoteNode {
        name: format!("node-{node}").into(),
        address: Some(address),
        takes_own: path.is_ok(),
        // A router leads to the nodes without a tunnel.
        takes_forwarded: path.is_ok_and(|path| path.outer.is_some()),
        path,
        path_v6: None,
    };
    b.set_remote_node(id(node), Some(Arc::new(remote)));
}

fn tunnel(address: Ip, exit: Exit) -> Result<NodePath, Unreachable> {
    let hop = hop(exit);
    let own = PARTIES[0].ip(address.is_v4());
    let outer = OuterHeader::new(own, address, TUNNEL.port, TUNNEL.vni).ok_or(Unreachable::NoRoute)?;
    let overhead = if address.is_v4() {
        vxlan::OVERHEAD_V4
    } else {
        vxlan::OVERHEAD_V6
    };
    Ok(NodePath {
        outer: Some(outer.with_macs(hop.dst, hop.src)),
        next_hop: NextHop {
            dst: MacAddr::GATEWAY,
            src: MacAddr::GATEWAY,
            exit,
        },
        mtu: 1500 - overhead,
    })
}

const fn hop(exit: Exit) -> NextHop {
    let (dst, src) = match exit {
        Exit::Uplink => (ROUTER, UPLINK.mac),
        Exit::Kernel => (PARTIES[0].mac, MacAddr::GATEWAY),
    };
    NextHop { dst, src, exit }
}

const fn id(node: usize) -> NodeId {
    NodeId(node as u16 + 1)
}
