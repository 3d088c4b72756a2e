//! Rewrites a packet for its way out: MAC addresses, TTL, addresses and ports, each with its checksum.
//!
//! What comes from a veth may carry an unfinished transport checksum; whatever leaves, leaves finished. Only those pay
//! for a sum over the payload; all others get the flow's prepared delta (RFC 1624).

use heddle_flow::{Egress, FlowFlags, FlowView, Rewrite};
use heddle_port::Packet;
use heddle_tables::EndpointId;
use heddle_wire::{MacAddr, Parsed, TcpFlags, checksum, rewrite};

use super::local_reply;
use super::mtu::Fit;
use crate::context::Context;
use crate::reason::DropReason;
use crate::verdict::Verdict;

/// What a flow says about each of its packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rewrite: Rewrite,
    pub(crate) nat: bool,
    pub(crate) egress: Egress,
    pub(crate) fit: Fit,
}

impl Plan {
    #[inline]
    pub(crate) fn of(view: &FlowView) -> Self {
        Self {
            rewrite: view.rewrite,
            nat: view.flags.contains(FlowFlags::NAT),
            egress: view.egress,
            fit: Fit::from_mss(view.mss_clamp),
        }
    }

    /// Whom the packet reaches. There is no tunnel and no uplink yet, and nothing makes such flows.
    #[inline]
    pub(crate) fn endpoint(&self) -> Option<EndpointId> {
        match self.egress {
            Egress::Endpoint(id) => Some(id),
            Egress::Uplink(_) | Egress::Node(_) => None,
        }
    }
}

/// Rewrites the packet and sends it on.
#[inline]
pub(crate) fn forward(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: &Plan) -> Verdict {
    let Some(to) = plan.endpoint() else {
        return Verdict::drop(DropReason::NoRoute);
    };
    let Some(exit) = cx.snapshot.egress_port(to) else {
        return Verdict::drop(DropReason::PortClosed);
    };
    if let Some(mtu) = plan.fit.mtu(p.l3)
        && p.l3_len > u32::from(mtu)
    {
        return too_large(cx, packet, p, plan, mtu);
    }
    if write(cx, packet, p, plan, exit.mac) {
        Verdict::Forward(to)
    } else {
        Verdict::drop(DropReason::Untranslatable)
    }
}

/// As [`forward`], for what is not the common case: code of its own, so that the common one has all of its to itself.
#[cold]
#[inline(never)]
pub(crate) fn forward_seldom(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: &Plan) -> Verdict {
    forward(cx, packet, p, plan)
}

/// The end of a packet that its way does not take: it is cut when it leaves, or its sender is told.
#[cold]
#[inline(never)]
fn too_large(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, plan: &Plan, mtu: u16) -> Verdict {
    if p.dont_fragment {
        return local_reply::too_big(cx, packet, p, mtu);
    }
    let Some((to, exit)) = plan.endpoint().and_then(|to| Some((to, cx.snapshot.egress_port(to)?))) else {
        return Verdict::drop(DropReason::PortClosed);
    };
    if write(cx, packet, p, plan, exit.mac) {
        Verdict::Fragment { to, mtu }
    } else {
        Verdict::drop(DropReason::Untranslatable)
    }
}

/// Writes the packet's headers as they leave.
#[inline(always)]
fn write(cx: &Context<'_>, packet: &mut Packet, p: &Parsed, plan: &Plan, mac: MacAddr) -> bool {
    // Every port is a veth's end so far, so any frame may be unfinished.
    let head = packet.bytes_mut(cx.store);
    let partial = checksum::is_partial(head, p);
    let to_be = plan.nat.then_some((&plan.rewrite.to, plan.rewrite.deltas));
    let mut whole = rewrite::forward(head, p, (mac, MacAddr::GATEWAY), to_be);
    if p.tcp_flags.contains(TcpFlags::SYN) && plan.fit.mss() != 0 {
        rewrite::clamp_mss(head, p, plan.fit.mss());
    }
    if partial {
        whole &= finish(cx, packet, p, plan);
    }
    whole
}

/// Computes the whole transport checksum of the packet as it leaves.
fn finish(cx: &Context<'_>, packet: &mut Packet, p: &Parsed, plan: &Plan) -> bool {
    let leaving = if plan.nat { p.translated(&plan.rewrite.to) } else { *p };
    checksum::compute(&leaving, packet.chunks(cx.store)).is_some_and(|sum| sum.store(packet.bytes_mut(cx.store)))
}
