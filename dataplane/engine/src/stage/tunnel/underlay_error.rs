//! ICMP errors of the network between the nodes. A router there quotes a packet of the tunnel. The error that the sender of the
//! inner packet understands is about that packet, and its MTU is smaller by the outer headers (RFC 2003 section 5.1).
//!
//! This part of the stage replaces one by the other, as if the node that the packet went to had sent it by the tunnel. From there on it is an
//! error like any other: `icmp_error` finds the inner flow, checks that the inner destination belongs to that node, and translates.
//! Nothing is remembered here. The sender learns the MTU, and forgets it after some time.
//!
//! Anybody can send an error to this node. One is accepted only about a packet that this node may have sent to another node's tunnel,
//! with the tunnel's identifier, for a connection that exists; and an MTU only within bounds.

use heddle_flow::Origin;
use heddle_port::Packet;
use heddle_tables::{NodeId, NodePath, Place, Snapshot, Tunnel};
use heddle_wire::build::{self, IcmpError, Unreachable};
use heddle_wire::parse::{Inner, quoted};
use heddle_wire::vxlan::{self, QuotedInner};
use heddle_wire::{L3, MacAddr, Parsed, Proto, checksum, ether, icmp};

use crate::context::Context;
use crate::reason::DropReason;

/// The smallest MTU of an IPv4 path that senders accept: Linux's `net.ipv4.route.min_pmtu` (512 + 20 + 20).
const LEAST_V4: u32 = 552;
/// The smallest MTU of an IPv6 path (RFC 8200 section 5).
const LEAST_V6: u32 = 1280;

/// Replaces an ICMP error about a packet of the tunnel by the error about the inner packet. Any other error stays as it is.
///
/// # Errors
/// The quote ends before the inner headers do, is no packet of the tunnel, or no error to a pod follows from this one.
#[cold]
#[inline(never)]
pub(super) fn replace(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    tunnel: &Tunnel,
) -> Result<(), DropReason> {
    let head = packet.bytes(cx.store);
    // An error with a quote that cannot be read is dropped where all errors are read.
    let Ok(outer) = quoted(head, p) else { return Ok(()) };
    let Some((node, path)) = destination(cx.snapshot, p, &outer, tunnel) else {
        return Ok(());
    };
    let inner = vxlan::quoted_inner(head, p, &outer, tunnel.vni)?;
    // The new error gets a new checksum, which must not cover up damage.
    let error = inner_error(head, p, &inner, path).filter(|_| checksum::verify(p, packet.chunks(cx.store)));
    let (Some(error), Some(neighbor)) = (error, ether::source(head)) else {
        return Err(DropReason::TunnelErrorRefused);
    };
    let macs = (MacAddr::GATEWAY, neighbor);
    let built = build::icmp_error_inside(head, &inner, error, macs, &mut cx.stages.scratch[..]);
    match built {
        Ok(len) if cx.copy_scratch(packet, len) => {
            cx.ingress.origin = Origin::node(node);
            Ok(())
        }
        _ => Err(DropReason::TunnelErrorRefused),
    }
}

/// Returns the node that a quoted packet of this node went to by the tunnel, and the path there.
fn destination<'a>(
    snapshot: &'a Snapshot,
    p: &Parsed,
    outer: &Inner,
    tunnel: &Tunnel,
) -> Option<(NodeId, &'a NodePath)> {
    if outer.proto != Proto::UDP || outer.dport != tunnel.port || p.dst != outer.src {
        return None;
    }
    if snapshot.address(outer.src).place != Place::Host {
        return None;
    }
    let Place::RemoteHost(node) = snapshot.address(outer.dst).place else {
        return None;
    };
    // A node that is reached over both families has a path for each.
    let path = snapshot
        .node_path_for(node, outer.dst.is_v4())
        .filter(|path| path.outer.is_some())?;
    Some((node, path))
}

/// Returns the error about the inner packet that follows from an error about the outer one; `None` if none does.
///
/// To the sender of the inner packet, the whole tunnel is one hop to a host that cannot be reached, also if the outer TTL ran out
/// (RFC 2003 section 4). Errors about the outer packet's form and about ports mean nothing to it.
fn inner_error(head: &[u8], p: &Parsed, inner: &QuotedInner, path: &NodePath) -> Option<IcmpError> {
    use icmp::{v4, v6};
    let unreachable = Some(IcmpError::Unreachable(Unreachable::Host));
    let word = head.get(p.l4() + 4..)?.first_chunk().copied().map(u32::from_be_bytes)?;
    match (p.l3, p.icmp_type, p.icmp_code) {
        (L3::V4, v4::UNREACHABLE, v4::CODE_FRAGMENTATION_NEEDED) => {
            too_big(word & 0xffff, vxlan::OVERHEAD_V4, inner, path)
        }
        (L3::V6, v6::TOO_BIG, _) => too_big(word, vxlan::OVERHEAD_V6, inner, path),
        (L3::V4, v4::UNREACHABLE, v4::CODE_NET | v4::CODE_HOST | v4::CODE_PROHIBITED)
        | (L3::V6, v6::UNREACHABLE, v6::CODE_NO_ROUTE | v6::CODE_PROHIBITED | v6::CODE_ADDRESS)
        | (L3::V4, v4::TIME_EXCEEDED, 0)
        | (L3::V6, v6::TIME_EXCEEDED, 0) => unreachable,
        _ => None,
    }
}

/// Returns the error with the MTU of the inner packet. An MTU that is no smaller than the known one is no news (RFC 8201 section 4),
/// and no link has one below the family's smallest.
fn too_big(outer: u32, overhead: u16, inner: &QuotedInner, path: &NodePath) -> Option<IcmpError> {
    let mtu = outer.checked_sub(u32::from(overhead))?;
    let least = if inner.src.is_v4() { LEAST_V4 } else { LEAST_V6 };
    let is_news = path.mtu == 0 || mtu < u32::from(path.mtu);
    (mtu >= least && is_news).then_some(IcmpError::TooBig { mtu })
}
