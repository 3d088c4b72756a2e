//! ICMP errors. An error belongs to the flow of the packet that it quotes. It is forwarded to the sender of that packet, translated
//! like the flow's replies.
//!
//! The quote is a packet of the flow as it left, after its translation. So the reversed quote is the key of the flow's replies,
//! and an error must come in where the replies do. In the quote, the addresses that the packet's sender knows are restored
//! (RFC 5508 section 4).

use heddle_flow::{FlowKey, Hit};
use heddle_port::Packet;
use heddle_wire::parse::{Inner, quoted};
use heddle_wire::{Parsed, Proto, icmp, rewrite};

use super::next::{Next, Replay};
use super::{mtu, tunnel};
use crate::context::Context;
use crate::decide::{self, Query};
use crate::reason::DropReason;
use crate::verdict::Verdict;

/// Checks an ICMP error against the flow whose replies have `key`.
#[cold]
pub(crate) fn check(cx: &Context<'_>, packet: &Packet, p: &Parsed, key: &FlowKey, hit: Option<&Hit>) -> Next {
    let inner = match quoted(packet.bytes(cx.store), p) {
        Ok(inner) => inner,
        Err(e) => return Next::drop(e.into()),
    };
    // The sender may be a router on the path instead of the quoted packet's destination, so its own address is checked.
    let sender = Query {
        origin: key.origin,
        tuple: p.tuple(),
        proto: p.proto,
    };
    if let Err(denial) = decide::check_source(cx.snapshot, &sender) {
        return Next::Done(denial.into());
    }
    match hit {
        // An error belongs to the flow only if it goes to the sender of the quoted packet.
        Some(_) if p.dst != inner.src => Next::drop(DropReason::IcmpWithoutFlow),
        Some(hit) if cx.is_current(&hit.view) => Next::Replay(Replay::of(hit)),
        Some(hit) => Next::Revalidate(*hit),
        None => Next::drop(DropReason::IcmpWithoutFlow),
    }
}

/// Translates an ICMP error and forwards it. The error does not count as a packet of its flow.
#[cold]
pub(crate) fn forward(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, direction: &Replay) -> Next {
    let plan = direction.plan();
    // No error answers an error (RFC 1122 section 3.2.2).
    if p.ttl <= 1 {
        return Next::drop(DropReason::TtlExceeded);
    }
    let link = match cx.link(plan.egress, p.src.is_v4()) {
        Ok(link) => link,
        Err(reason) => return Next::drop(reason),
    };
    let inner = match quoted(packet.bytes(cx.store), p) {
        Ok(inner) => inner,
        Err(e) => return Next::drop(e.into()),
    };
    note_path_mtu(cx, packet, p, &inner, direction);
    let back = plan.rewrite.to;
    let head = packet.bytes_mut(cx.store);
    let mut whole = rewrite::forward(head, p, link.macs, None);
    if plan.nat {
        // An error of the destination itself gets the address that the opener knows. A router on the path keeps its own.
        let src = if p.src == inner.dst { back.src } else { p.src };
        whole &= rewrite::translate_error(head, p, &inner, src, back.dst, &back.reversed());
    }
    if !whole {
        return Next::drop(DropReason::Untranslatable);
    }
    if let Some(outer) = link.outer {
        if let Err(reason) = tunnel::encapsulate_whole(cx.store, packet, outer) {
            return Next::drop(reason);
        }
        cx.stages.encapsulated += 1;
    }
    Next::Done(Verdict::Forward(plan.egress))
}

/// Lowers the size of the segments that a connection's large packets are cut into, if an error reports a smaller path. The sender does not
/// know the size that they are cut at: it lowers its own, and its packets stay large.
fn note_path_mtu(cx: &Context<'_>, packet: &Packet, p: &Parsed, inner: &Inner, direction: &Replay) {
    if inner.proto == Proto::TCP
        && let Some(mtu) = icmp::too_big_mtu(packet.bytes(cx.store), p)
    {
        mtu::note_reported(cx, mtu, p.l3, direction.slot.peer());
    }
}
