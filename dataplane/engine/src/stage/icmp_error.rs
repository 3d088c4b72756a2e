//! ICMP errors: they belong to the flow whose packet they quote, and travel back along it, translated like its answers.
//!
//! The quoted packet is one of the flow as it left; so the reversed quote is the key of the flow's answers, and an error
//! must come in where those do. Its quote is given back the addresses that the sender knows (RFC 5508 section 4).

use heddle_flow::{FlowKey, Hit};
use heddle_port::Packet;
use heddle_wire::parse::{Inner, quoted};
use heddle_wire::rewrite;
use heddle_wire::{MacAddr, Parsed};

use super::forward::Plan;
use super::revalidate;
use crate::context::Context;
use crate::decide::{self, Query};
use crate::reason::DropReason;
use crate::verdict::Verdict;

/// The end of an ICMP error; `key` is that of the answers to the packet that it quotes.
#[cold]
pub(crate) fn error(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: Option<Hit>) -> Verdict {
    cx.stages.slow += 1;
    let inner = match quoted(packet.bytes(cx.store), p) {
        Ok(inner) => inner,
        Err(e) => return Verdict::drop(e.into()),
    };
    let sender = Query {
        origin: key.origin,
        tuple: p.tuple(),
        proto: p.proto,
    };
    if let Err(denial) = decide::check_source(cx.snapshot, &sender) {
        return denial.into();
    }
    let Some(hit) = hit else {
        return Verdict::drop(DropReason::IcmpWithoutFlow);
    };
    // An error to somebody else than the sender of what it quotes is no error of this flow.
    if p.dst != inner.src {
        return Verdict::drop(DropReason::IcmpWithoutFlow);
    }
    if !cx.is_current(&hit.view) {
        match revalidate::again(cx, key, &hit) {
            Ok(Some(_)) => {}
            Ok(None) => return Verdict::drop(DropReason::IcmpWithoutFlow),
            Err(denial) => return denial.into(),
        }
    }
    // No error answers an error (RFC 1122 section 3.2.2).
    if p.ttl <= 1 {
        return Verdict::drop(DropReason::TtlExceeded);
    }
    pass(cx, packet, p, &inner, &Plan::of(&hit.view))
}

fn pass(cx: &Context<'_>, packet: &mut Packet, p: &Parsed, inner: &Inner, plan: &Plan) -> Verdict {
    let Some(to) = plan.endpoint() else {
        return Verdict::drop(DropReason::NoRoute);
    };
    let Some(exit) = cx.snapshot.egress_port(to) else {
        return Verdict::drop(DropReason::PortClosed);
    };
    let back = plan.rewrite.to;
    let head = packet.bytes_mut(cx.store);
    let mut whole = rewrite::forward(head, p, (exit.mac, MacAddr::GATEWAY), None);
    if plan.nat {
        // The other end speaks under the name that the opener knows; a router on the way under its own.
        let src = if p.src == inner.dst { back.src } else { p.src };
        whole &= rewrite::translate_error(head, p, inner, src, back.dst, &back.reversed());
    }
    if whole {
        Verdict::Forward(to)
    } else {
        Verdict::drop(DropReason::Untranslatable)
    }
}
