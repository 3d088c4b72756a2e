//! Rewrites a packet for its egress: MAC addresses, TTL, addresses and ports, each with its checksum.
//!
//! A port may deliver packets with an unfinished transport checksum (a capability of the port). Every packet leaves with a
//! finished one. Only an unfinished checksum needs a sum over the payload; all other packets get the flow's prepared delta
//! (RFC 1624).

use heddle_flow::Egress;
use heddle_port::Packet;
use heddle_wire::vxlan::OuterHeader;
use heddle_wire::{MacAddr, Parsed, TcpFlags, checksum, is_divisible, rewrite};

use super::next::{Next, Plan, Reply};
use super::{mtu, tunnel};
use crate::context::Context;
use crate::reason::DropReason;
use crate::verdict::Verdict;

/// Rewrites the packet for its egress.
///
/// Plan: look up the egress port's MAC address, compare the packet's length with the path's MTU, write the headers. A packet
/// that is too large is left to [`too_large`], and one that leaves the node to [`forward_away`], so that the common case stays
/// small.
#[inline(always)]
pub(crate) fn forward(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: Plan<'_>) -> Next {
    let Egress::Endpoint(to) = plan.egress else {
        return forward_away(cx, packet, p, plan);
    };
    let Some(port) = cx.snapshot.egress_port(to) else {
        return Next::drop(DropReason::PortClosed);
    };
    let mac = port.mac;
    if packet.len() as usize > p.end() && !trim(cx, packet, p) {
        return Next::drop(DropReason::Untranslatable);
    }
    if let Some(mtu) = plan.fit.mtu(p.l3)
        && p.l3_len > u32::from(mtu)
    {
        return too_large(cx, packet, p, plan, mtu);
    }
    if write(cx, packet, p, plan, (mac, MacAddr::GATEWAY)) {
        Next::Done(Verdict::Forward(plan.egress))
    } else {
        Next::drop(DropReason::Untranslatable)
    }
}

/// Rewrites a packet that leaves the node, and puts the outer headers before it if it leaves by a tunnel. It is not rare, but marked
/// so, because the compiler then keeps its registers out of the packets that stay on the node.
#[cold]
#[inline(never)]
fn forward_away(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: Plan<'_>) -> Next {
    let link = match cx.link(plan.egress, p.src.is_v4()) {
        Ok(link) => link,
        Err(reason) => return Next::drop(reason),
    };
    if packet.len() as usize > p.end() && !trim(cx, packet, p) {
        return Next::drop(DropReason::Untranslatable);
    }
    if let Some(mtu) = plan.fit.mtu(p.l3)
        && p.l3_len > u32::from(mtu)
    {
        return too_large(cx, packet, p, plan, mtu);
    }
    if !write(cx, packet, p, plan, link.macs) {
        return Next::drop(DropReason::Untranslatable);
    }
    match link.outer {
        None => Next::Done(Verdict::Forward(plan.egress)),
        Some(outer) => encapsulate(cx, packet, p, plan, outer),
    }
}

/// Puts the outer headers before a packet that is written.
#[inline(always)]
fn encapsulate(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: Plan<'_>, outer: &OuterHeader) -> Next {
    // The entry has the tuple with which packets leave, whether it differs from the packet's own or not. Later fragments, which
    // have no ports, get the same source port by it.
    let port = tunnel::source_port(&plan.rewrite.to);
    if tunnel::encapsulate(cx.store, packet, outer, port, p.l3, || as_it_leaves(p, plan)) {
        cx.stages.encapsulated += 1;
        Next::Done(Verdict::Forward(plan.egress))
    } else {
        Next::drop(DropReason::TunnelNoHeadroom)
    }
}

/// Cuts off the octets behind the end of the IP packet: padding of a short Ethernet frame, or data that would leave past the
/// path's MTU. Returns false for a packet of several frames.
#[cold]
#[inline(never)]
fn trim(cx: &Context<'_>, packet: &mut Packet, p: &Parsed) -> bool {
    packet.truncate(cx.store, p.end() as u32)
}

/// Handles a packet that is larger than its path takes: a large segment leaves in parts. Of another packet the sender gets an ICMP error, or
/// it is fragmented when it leaves.
#[cold]
#[inline(never)]
fn too_large(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: Plan<'_>, mtu: u16) -> Next {
    if is_large_segment(cx, packet, p) {
        return segment(cx, packet, p, plan);
    }
    if p.dont_fragment {
        return Next::Reply(Reply::TooBig { mtu });
    }
    let link = match cx.link(plan.egress, p.src.is_v4()) {
        Ok(link) => link,
        Err(reason) => return Next::drop(reason),
    };
    // Its worker encapsulates each fragment.
    if write(cx, packet, p, plan, link.macs) {
        Next::Done(Verdict::Fragment { to: plan.egress, mtu })
    } else {
        Next::drop(DropReason::Untranslatable)
    }
}

/// Returns true if a packet is larger than its path because its sender's kernel leaves segmentation to the device. Such a packet has an
/// unfinished checksum; a finished one is a packet that its sender has made so large by itself.
fn is_large_segment(cx: &Context<'_>, packet: &Packet, p: &Parsed) -> bool {
    cx.ingress.capabilities.rx_large_segments && is_divisible(p) && checksum::is_partial(packet.bytes(cx.store), p)
}

/// Rewrites a large segment. Its checksum stays as it is: its segments get their own, or the port that sends it whole writes it.
fn segment(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: Plan<'_>) -> Next {
    let link = match cx.link(plan.egress, p.src.is_v4()) {
        Ok(link) => link,
        Err(reason) => return Next::drop(reason),
    };
    let to_be = plan.nat.then_some((&plan.rewrite.to, plan.rewrite.deltas));
    if !rewrite::forward(packet.bytes_mut(cx.store), p, link.macs, to_be) {
        return Next::drop(DropReason::Untranslatable);
    }
    let size = mtu::segment_size(plan.fit, p);
    Next::Done(Verdict::Segment { to: plan.egress, size })
}

/// Writes the packet's headers as they leave. Returns false if the flow's translation cannot be applied.
#[inline(always)]
fn write(cx: &Context<'_>, packet: &mut Packet, p: &Parsed, plan: Plan<'_>, macs: (MacAddr, MacAddr)) -> bool {
    let unfinished = cx.ingress.capabilities.unfinished_checksums;
    let head = packet.bytes_mut(cx.store);
    // Before the rewrite: the test compares the checksum field with the sum of the pseudo header as it came in.
    let partial = unfinished && checksum::is_partial(head, p);
    let to_be = plan.nat.then_some((&plan.rewrite.to, plan.rewrite.deltas));
    let mut whole = rewrite::forward(head, p, macs, to_be);
    if p.tcp_flags.contains(TcpFlags::SYN) && cx.mss_option != 0 {
        rewrite::clamp_mss(head, p, cx.mss_option);
    }
    if partial {
        whole &= finish(cx, packet, p, plan);
    }
    whole
}

/// Computes the whole transport checksum of the packet as it leaves.
fn finish(cx: &Context<'_>, packet: &mut Packet, p: &Parsed, plan: Plan<'_>) -> bool {
    let leaving = as_it_leaves(p, plan);
    checksum::compute(&leaving, packet.chunks(cx.store)).is_some_and(|sum| sum.store(packet.bytes_mut(cx.store)))
}

/// Returns the parsed headers of the packet as it leaves.
fn as_it_leaves(p: &Parsed, plan: Plan<'_>) -> Parsed {
    if plan.nat { p.translated(&plan.rewrite.to) } else { *p }
}
