//! Flow hits: says whether an entry that was found may be replayed, and finds the successor of an entry that is gone.

use heddle_flow::{FlowKey, Hit};
use heddle_wire::Parsed;

use super::next::{Next, Replay};
use crate::context::Context;

/// Checks the entry of a packet's key: replay it if it is current.
///
/// A SYN on an entry that is closed, adopted, or belongs to the other side opens a new connection (RFC 9293 section
/// 3.10.7.4); this comes first because a stale entry of a past connection has nothing to say about it.
#[cold]
#[inline(never)]
pub(crate) fn check(cx: &Context<'_>, p: &Parsed, hit: &Hit) -> Next {
    if p.tcp_flags.opens() && !hit.view.admits_syn() {
        return Next::Open(Some(hit.slot));
    }
    if !cx.is_current(&hit.view) {
        return Next::Revalidate(*hit);
    }
    Next::Replay(Replay::of(hit))
}

/// Returns whether [`check`] would replay the entry. The hot path asks this first, and needs no copy of the entry then.
#[inline(always)]
pub(crate) fn is_replayable(cx: &Context<'_>, p: &Parsed, hit: &Hit) -> bool {
    (!p.tcp_flags.opens() || hit.view.admits_syn()) && cx.is_current(&hit.view)
}

/// Looks for the successor of a connection that was removed since the burst's lookup, by an earlier packet of the burst or
/// by another worker. A new connection of the same tuple may stand in its place.
#[cold]
pub(crate) fn find_successor(cx: &Context<'_>, key: &FlowKey) -> Next {
    let successor = cx
        .flows
        .find_tuple(&key.tuple, key.proto, cx.now)
        .filter(|hit| hit.view.origin == key.origin && cx.is_current(&hit.view));
    match successor {
        Some(hit) => Next::Replay(Replay::of(&hit)),
        None => Next::Open(None),
    }
}
