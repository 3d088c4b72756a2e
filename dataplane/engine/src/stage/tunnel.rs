//! The tunnel (VXLAN, RFC 7348): received packets are decapsulated before they are classified, and packets to other nodes are
//! encapsulated when their headers are written.
//!
//! Only packets of nodes that the tables know are taken, and only of those that packets go to by a tunnel. Anti-spoofing checks that
//! the inner source belongs to the sender. The source MAC of the outer frame replaces the inner one, so that a packet with a local
//! reply shows which neighbor it came from, in a tunnel or not.

mod underlay_error;

use std::ops::Range;

use heddle_flow::Origin;
use heddle_port::{FrameStore, Packet};
use heddle_tables::{NodeId, Place, Snapshot, Tunnel};
use heddle_wire::checksum::Sum;
use heddle_wire::rewrite::{Tuple, set_macs};
use heddle_wire::vxlan::{self, OuterHeader, SeenHeader, ecn};
use heddle_wire::{IcmpMessage, Ip, L3, MacAddr, Parsed, Proto, ether, parse};

use crate::context::Context;
use crate::reason::DropReason;

/// The first of the ports that the outer source port is chosen from: the dynamic ones (RFC 6335 section 6).
const FIRST_PORT: u16 = 49152;

/// Prepares a packet that came in by the uplink. A packet of the tunnel loses its outer headers, and its origin becomes the node
/// that sent it. The origin of a packet that a node forwarded without a tunnel becomes that node too. An ICMP error about a packet
/// that this node sent by the tunnel becomes one about the inner packet.
///
/// # Errors
/// The reason for which the packet is dropped.
#[inline(never)]
pub(crate) fn receive(cx: &mut Context<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    cx.ingress.origin = Origin::UPLINK;
    let head = packet.bytes(cx.store);
    if let Some((seen, node)) = &cx.last_sender
        && seen.is_repeated(head, packet.len() as usize)
    {
        let (node, l3, frame) = (*node, seen.l3(), seen.inner()..packet.len() as usize);
        return take_inner(cx, packet, node, l3, frame);
    }
    let outer = parse(head, packet.len() as usize)?;
    match &cx.snapshot.node().tunnel {
        Some(tunnel) if is_tunnel(cx.snapshot, tunnel, &outer) => {
            return decapsulate(cx, packet, &outer, tunnel.vni);
        }
        Some(tunnel) if outer.icmp() == Some(IcmpMessage::Error) => {
            underlay_error::replace(cx, packet, &outer, tunnel)?;
        }
        _ => {}
    }
    if cx.snapshot.has_forwarders()
        && let Some(node) = forwarder(cx.snapshot, packet.bytes(cx.store), &outer)
    {
        cx.ingress.origin = Origin::node(node);
    }
    Ok(())
}

/// Returns the node that forwarded a packet of a client outside without a tunnel. The source MAC shows it.
#[cold]
fn forwarder(snapshot: &Snapshot, head: &[u8], p: &Parsed) -> Option<NodeId> {
    let node = snapshot.forwarder(ether::source(head)?)?;
    let is_forwarded = snapshot.address(p.src).place == Place::Outside && snapshot.may_be_forwarded(node, p.dst);
    is_forwarded.then_some(node)
}

/// Returns true if a packet belongs to the tunnel: it goes to its port at an address of this node.
fn is_tunnel(snapshot: &Snapshot, tunnel: &Tunnel, p: &Parsed) -> bool {
    p.proto == Proto::UDP && p.dport == tunnel.port && snapshot.address(p.dst).place == Place::Host
}

/// Removes the outer headers, and remembers them for the next packet.
#[inline(never)]
fn decapsulate(cx: &mut Context<'_>, packet: &mut Packet, outer: &Parsed, vni: u32) -> Result<(), DropReason> {
    let node = sender(cx.snapshot, outer.src).ok_or(DropReason::TunnelUnknownSender)?;
    let head = packet.bytes(cx.store);
    let at = vxlan::open(head, outer, vni)?;
    cx.last_sender = SeenHeader::of(head, outer).map(|seen| (seen, node));
    take_inner(cx, packet, node, outer.l3, at..outer.end())
}

/// Takes the inner frame out of a packet that a node sent, whose outer headers are of the family `l3`.
#[inline(always)]
fn take_inner(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    node: NodeId,
    l3: L3,
    frame: Range<usize>,
) -> Result<(), DropReason> {
    let head = packet.bytes_mut(cx.store);
    let class = ecn::traffic_class(head, l3);
    let neighbor = ether::source(head);
    let inner = head.get_mut(frame.start..).ok_or(DropReason::TunnelTruncated)?;
    if !ecn::decapsulate(class, inner) {
        return Err(DropReason::TunnelCongested);
    }
    // Packets to this node's own tunnel end are routed like packets to the gateway. Nodes with an earlier version of heddle, and
    // manifests, have the gateway's address for all nodes.
    if let (Some(dst), Some(neighbor)) = (ether::destination(inner), neighbor) {
        let is_own = cx.snapshot.node().vtep == Some(dst);
        set_macs(inner, if is_own { MacAddr::GATEWAY } else { dst }, neighbor);
    }
    // Octets behind the outer packet are padding.
    if packet.len() as usize > frame.end && !packet.truncate(cx.store, frame.end as u32) {
        return Err(DropReason::TunnelTruncated);
    }
    if !packet.shrink_front(cx.store, frame.start as u32) {
        return Err(DropReason::TunnelTruncated);
    }
    cx.ingress.origin = Origin::node(node);
    cx.stages.decapsulated += 1;
    Ok(())
}

/// Returns the node with this address, if packets go to it by a tunnel.
fn sender(snapshot: &Snapshot, address: Ip) -> Option<NodeId> {
    match snapshot.address(address).place {
        Place::RemoteHost(node) => snapshot.node_path(node)?.outer.map(|_| node),
        _ => None,
    }
}

/// Puts the outer headers before a packet of the family `l3` whose own headers are as they leave. `source_port` is the outer source
/// port, and `leaving` returns those headers parsed, which only a tunnel over IPv6 needs. Returns false if the packet does not fit: it
/// is then unchanged.
#[must_use]
#[inline(always)]
pub(crate) fn encapsulate(
    store: &FrameStore,
    packet: &mut Packet,
    outer: &OuterHeader,
    source_port: u16,
    l3: L3,
    leaving: impl FnOnce() -> Parsed,
) -> bool {
    let inner = if outer.needs_inner_sum() {
        match inner_sum(store, packet, &leaving()) {
            Some(sum) => sum,
            None => return false,
        }
    } else {
        Sum::ZERO
    };
    let len = packet.len();
    let header = outer.len();
    if !packet.grow_front(store, header as u32) {
        return false;
    }
    let head = packet.bytes_mut(store);
    let class = ecn::traffic_class(head.get(header..).unwrap_or_default(), l3);
    let written = outer.write(head, len, class, source_port, inner);
    if !written {
        let _ = packet.shrink_front(store, header as u32);
    }
    written
}

/// Returns the sum of a packet as the inner frame of a tunnel.
#[inline(never)]
fn inner_sum(store: &FrameStore, packet: &Packet, leaving: &Parsed) -> Option<Sum> {
    vxlan::inner_sum(leaving, packet.chunks(store))
}

/// Returns the outer source port for packets with a tuple: from its hash, so that the network spreads connections over its paths
/// and keeps the packets of one together (RFC 7348 section 5).
#[inline]
pub(crate) fn source_port(t: &Tuple) -> u16 {
    let word = |ip: Ip| u128::from_be_bytes(ip.octets());
    let fold = |n: u128| (n >> 64) as u64 ^ n as u64;
    let ports = u64::from(t.sport) << 16 | u64::from(t.dport);
    let hash = (fold(word(t.src)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ fold(word(t.dst)))
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .wrapping_add(ports)
        .wrapping_mul(0x94d0_49bb_1331_11eb);
    FIRST_PORT | (hash >> 50) as u16
}

/// Encapsulates a packet whose headers are not parsed: a fragment that was just cut, or a local reply.
///
/// # Errors
/// The reason for which it must be dropped.
#[cold]
pub(crate) fn encapsulate_whole(
    store: &FrameStore,
    packet: &mut Packet,
    outer: &OuterHeader,
) -> Result<(), DropReason> {
    let p = parse(packet.bytes(store), packet.len() as usize)?;
    let tuple = Tuple {
        sport: 0,
        dport: 0,
        ..p.tuple()
    };
    // Fragments of one datagram have one port, and only the first knows the inner ones.
    let port = source_port(&if p.is_fragment() { tuple } else { p.tuple() });
    if encapsulate(store, packet, outer, port, p.l3, || p) {
        Ok(())
    } else {
        Err(DropReason::TunnelNoHeadroom)
    }
}
