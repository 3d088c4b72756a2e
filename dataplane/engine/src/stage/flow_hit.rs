//! Flow hits: checks that an entry may be replayed, and finds the successor of an entry that was removed.

use heddle_flow::{FlowKey, Hit};
use heddle_wire::Parsed;

use super::next::{Next, Replay};
use crate::context::Context;

/// Returns the next step for a packet whose key hit an entry: replay if the entry is current.
///
/// A SYN on an entry that is closed, adopted, or was opened by the other side opens a new connection (RFC 9293 section
/// 3.10.7.4). This is checked first, because the entry of the old connection need not be revalidated then.
#[cold]
#[inline(never)]
pub(crate) fn check(cx: &Context<'_>, p: &Parsed, hit: &Hit) -> Next {
    if p.opens && !hit.view.admits_syn() {
        return Next::Open(Some(hit.slot));
    }
    if !cx.is_current(&hit.view) {
        return Next::Revalidate(*hit);
    }
    Next::Replay(Replay::of(hit))
}

/// Returns true if [`check`] would replay the entry. The hot path calls it first, which saves a copy of the entry.
#[inline(always)]
pub(crate) fn is_replayable(cx: &Context<'_>, p: &Parsed, hit: &Hit) -> bool {
    (!p.opens || hit.view.admits_syn()) && cx.is_current(&hit.view)
}

/// Finds the successor of a connection that was removed since the burst's lookup by an earlier packet of the burst or by
/// another worker: a new connection of the same tuple.
#[cold]
pub(crate) fn find_successor(cx: &Context<'_>, key: &FlowKey) -> Next {
    let successor = cx
        .flows
        .find_tuple(key, cx.now)
        .filter(|hit| hit.view.origin == key.origin && cx.is_current(&hit.view));
    match successor {
        Some(hit) => Next::Replay(Replay::of(&hit)),
        None => Next::Open(None),
    }
}
