//! What a looked-up packet's flow says: replay it, or find out why not.

use heddle_flow::{FlowKey, Hit};
use heddle_port::Packet;
use heddle_wire::Parsed;

use super::forward::{self, Plan};
use super::{local_reply, new_flow, revalidate};
use crate::context::Context;
use crate::verdict::Verdict;

/// The end of a packet with its transport header, whose key was looked up.
#[inline]
pub(crate) fn whole(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    key: &FlowKey,
    hit: Option<&Hit>,
) -> Verdict {
    match hit {
        Some(hit) => found(cx, packet, p, key, hit),
        None => new_flow::dispatch_miss(cx, packet, p, key, None),
    }
}

/// The end of a packet whose key is in the table.
#[inline]
pub(crate) fn found(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: &Hit) -> Verdict {
    if p.tcp_flags.opens() && !hit.view.admits_syn() {
        cx.stages.slow += 1;
        return new_flow::open(cx, packet, p, key, Some(hit.slot), None);
    }
    if !cx.is_current(&hit.view) {
        cx.stages.slow += 1;
        return revalidate::stale(cx, packet, p, key, hit);
    }
    replay(cx, packet, p, key, hit)
}

/// Does to the packet what was done to the first one.
#[inline]
pub(crate) fn replay(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: &Hit) -> Verdict {
    if p.ttl <= 1 {
        return local_reply::time_exceeded(cx, packet, p);
    }
    if cx.flows.touch(hit.slot, cx.now, packet.len(), p.tcp_flags) {
        forward::forward(cx, packet, p, &Plan::of(&hit.view))
    } else {
        replaced(cx, packet, p, key)
    }
}

/// The end of a packet whose connection was removed since it was looked up: by an earlier packet of its burst, or by
/// another worker. A new one of the same tuple may stand in its place.
#[cold]
fn replaced(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey) -> Verdict {
    let successor = cx
        .flows
        .find_tuple(&key.tuple, key.proto, cx.now)
        .filter(|hit| hit.view.origin == key.origin && cx.is_current(&hit.view));
    match successor {
        Some(hit) => {
            cx.flows.touch(hit.slot, cx.now, packet.len(), p.tcp_flags);
            forward::forward_seldom(cx, packet, p, &Plan::of(&hit.view))
        }
        None => new_flow::open(cx, packet, p, key, None, None),
    }
}
