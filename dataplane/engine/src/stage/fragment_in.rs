//! Fragments of datagrams: the first one goes its way as any packet does, later ones follow it or wait for it.
//!
//! A later fragment has no ports, so it gets the flow key of its first ([`crate::reassembly`]) and is a packet of that flow: if
//! tables have changed, the flow is judged again; its addresses are translated, and the first fragment's checksum, which
//! covers all of the datagram, has got the delta for all. It never opens, adopts or resets a connection.
//!
//! What cannot be done: the CRC32c of an SCTP packet covers all fragments, so one whose ports are translated is dropped
//! (`untranslatable`), and one that a veth left at zero stays so; SCTP does not send fragments (RFC 9260 section 6.9).

use heddle_flow::{FlowKey, Hit};
use heddle_port::Packet;
use heddle_wire::Parsed;

use super::forward::{self, Plan};
use super::{flow_hit, revalidate};
use crate::context::Context;
use crate::decide::{self, Query};
use crate::reason::DropReason;
use crate::reassembly::{DatagramKey, Later, Part, Ticket};
use crate::verdict::Verdict;

/// What becomes of a fragment in its burst.
pub(crate) enum End {
    /// It ends.
    Now(Verdict),
    /// It waits for the first fragment of its datagram.
    Waits(Ticket),
}

/// The end of a fragment, whose key was looked up if it is a first one.
#[cold]
pub(crate) fn fragment(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: Option<&Hit>) -> End {
    if p.is_later_fragment() {
        later(cx, packet, p)
    } else {
        End::Now(first(cx, packet, p, key, hit))
    }
}

fn first(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: Option<&Hit>) -> Verdict {
    let datagram = DatagramKey::of(p, key.origin);
    let ticket = match cx
        .stages
        .datagrams
        .first(&datagram, *key, Part::of(p), cx.ingress, cx.now)
    {
        Ok(ticket) => ticket,
        Err(reason) => return Verdict::drop(reason),
    };
    let verdict = flow_hit::whole(cx, packet, p, key, hit);
    if let Some(ticket) = ticket {
        let passes = matches!(verdict, Verdict::Forward(_) | Verdict::Fragment { .. });
        cx.stages.datagrams.settle(ticket, *key, passes);
    }
    verdict
}

/// A first fragment has ended before it had a flow: so do the later ones.
#[cold]
pub(crate) fn refused(cx: &mut Context<'_>, p: &Parsed) {
    let key = FlowKey::of(p, cx.origin());
    let datagram = DatagramKey::of(p, key.origin);
    let datagrams = &mut cx.stages.datagrams;
    if let Ok(Some(ticket)) = datagrams.first(&datagram, key, Part::of(p), cx.ingress, cx.now) {
        datagrams.settle(ticket, key, false);
    }
}

fn later(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> End {
    // Who may not send from that address has no fragments to be held.
    let sender = Query {
        origin: cx.origin(),
        tuple: p.tuple(),
        proto: p.proto,
    };
    if let Err(denial) = decide::check_source(cx.snapshot, &sender) {
        return End::Now(denial.into());
    }
    let datagram = DatagramKey::of(p, cx.origin());
    match cx.stages.datagrams.later(&datagram, Part::of(p), cx.ingress, cx.now) {
        Later::Follow(key) => End::Now(follow(cx, packet, p, &key)),
        Later::Wait(ticket) => End::Waits(ticket),
        Later::Drop(reason) => End::Now(Verdict::drop(reason)),
    }
}

/// Sends a later fragment as the flow of its first says now.
fn follow(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey) -> Verdict {
    let without_flow = Verdict::drop(DropReason::FragmentWithoutFlow);
    let Some(mut hit) = cx
        .flows
        .find_tuple(&key.tuple, key.proto, cx.now)
        .filter(|hit| hit.view.origin == key.origin)
    else {
        return without_flow;
    };
    if !cx.is_current(&hit.view) {
        cx.stages.slow += 1;
        hit = match revalidate::again(cx, key, &hit) {
            Ok(Some(hit)) => hit,
            Ok(None) => return without_flow,
            Err(denial) => return denial.into(),
        };
    }
    // No ICMP error tells of a fragment other than the first (RFC 1122 section 3.2.2).
    if p.ttl <= 1 {
        return Verdict::drop(DropReason::TtlExceeded);
    }
    if !cx.flows.touch(hit.slot, cx.now, packet.len(), p.tcp_flags) {
        return without_flow;
    }
    forward::forward_seldom(cx, packet, p, &Plan::of(&hit.view))
}
