//! Received fragments: the first one of a datagram is forwarded like any packet, and later ones follow its flow or wait for it.
//!
//! A later fragment has no ports. It gets the flow key of its first fragment ([`crate::reassembly`]) and is a packet of that
//! flow: the flow is revalidated if it is stale, and the fragment's addresses are translated. The checksum in the first
//! fragment covers the whole datagram and gets the whole delta there. A later fragment never opens, adopts or resets a
//! connection; the driver turns these steps into drops.
//!
//! Limit: the CRC32c of an SCTP packet covers all fragments. So a fragmented SCTP packet whose ports are translated is dropped
//! (`untranslatable`), and a checksum that a veth left at zero stays zero. SCTP sends no IP fragments (RFC 9260 section 6.9).

use heddle_flow::FlowKey;
use heddle_wire::Parsed;

use super::next::{Next, Replay};
use crate::context::Context;
use crate::decide::{self, Query};
use crate::reason::DropReason;
use crate::reassembly::{DatagramKey, Later, Part, Ticket};
use crate::verdict::Verdict;

/// The next step for a later fragment.
pub(crate) enum Fate {
    /// Follow the flow with this key, which is its first fragment's.
    Follow(FlowKey),
    /// Wait for the first fragment of its datagram.
    Wait(Ticket),
    /// Nothing: it has its verdict.
    Done(Verdict),
}

/// Registers the first fragment of a datagram, before its verdict is known. Fragments that waited for it become ready.
///
/// # Errors
/// The reason for which the fragment is dropped: it overlaps another one of its datagram.
#[cold]
pub(crate) fn register_first(cx: &mut Context<'_>, p: &Parsed, key: &FlowKey) -> Result<Option<Ticket>, DropReason> {
    let datagram = DatagramKey::of(p, key.origin);
    cx.stages
        .datagrams
        .first(&datagram, *key, Part::of(p), cx.ingress, cx.now)
}

/// Records the verdict on the first fragment: later ones follow only one that was forwarded.
pub(crate) fn record_first(cx: &mut Context<'_>, ticket: Option<Ticket>, key: &FlowKey, verdict: Verdict) {
    if let Some(ticket) = ticket {
        let passes = matches!(verdict, Verdict::Forward(_) | Verdict::Fragment { .. });
        cx.stages.datagrams.record_first(ticket, *key, passes);
    }
}

/// Records a first fragment that got its verdict before it had a flow: the later ones are dropped too.
#[cold]
pub(crate) fn refuse_first(cx: &mut Context<'_>, p: &Parsed) {
    let key = FlowKey::of(p, cx.origin());
    if let Ok(Some(ticket)) = register_first(cx, p, &key) {
        cx.stages.datagrams.record_first(ticket, key, false);
    }
}

/// Finds the next step for a later fragment.
#[cold]
pub(crate) fn later(cx: &mut Context<'_>, p: &Parsed) -> Fate {
    // First, so that a spoofed fragment takes no room from other fragments.
    let sender = Query {
        origin: cx.origin(),
        tuple: p.tuple(),
        proto: p.proto,
    };
    if let Err(denial) = decide::check_source(cx.snapshot, &sender) {
        return Fate::Done(denial.into());
    }
    let datagram = DatagramKey::of(p, cx.origin());
    match cx.stages.datagrams.later(&datagram, Part::of(p), cx.ingress, cx.now) {
        Later::Follow(key) => Fate::Follow(key),
        Later::Wait(ticket) => Fate::Wait(ticket),
        Later::Drop(reason) => Fate::Done(Verdict::drop(reason)),
    }
}

/// Finds the flow that a later fragment follows.
pub(crate) fn find_flow(cx: &Context<'_>, key: &FlowKey) -> Next {
    let found = cx
        .flows
        .find_tuple(key, cx.now)
        .filter(|hit| hit.view.origin == key.origin);
    match found {
        Some(hit) if cx.is_current(&hit.view) => Next::Replay(Replay::of(&hit)),
        Some(hit) => Next::Revalidate(hit),
        None => Next::drop(DropReason::FragmentWithoutFlow),
    }
}
