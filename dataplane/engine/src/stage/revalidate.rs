//! Judges an existing flow against the tables, because they have changed since its evaluation or because a packet came in from
//! another origin.
//!
//! Packets of both directions are judged as packets of the opener. A connection that is allowed keeps its translation. A
//! connection that policy denies keeps its entry, which stays stale: each of its packets is judged again, until policy allows
//! it or the entry expires. If the entry were removed, the next packet would be a mid-stream segment without a flow. While
//! connections are adopted, such a segment could bring the denied connection back: judged in the opposite direction, which policy
//! may not restrict.

use heddle_flow::{Egress, FlowFlags, FlowKey, FlowView, Hit, Route};
use heddle_tables::EndpointId;
use heddle_wire::{Parsed, Proto};

use super::mtu;
use super::next::{Next, Replay, Reply};
use crate::context::Context;
use crate::decide::{self, Allowed, Denial, Query, Source, Target, origin_of, owner};
use crate::reason::DropReason;

/// Judges the entry of a packet, and returns its replay if the connection is allowed.
#[cold]
pub(crate) fn revalidate(cx: &Context<'_>, p: &Parsed, key: &FlowKey, hit: &Hit) -> Next {
    if hit.view.origin == key.origin {
        stale(cx, p, key, hit)
    } else {
        moved(cx, key, hit)
    }
}

/// Returns the connection as its opener started it, from either direction's key and entry.
fn connection(key: &FlowKey, view: &FlowView) -> (Query, Target) {
    let service = view.flags.contains(FlowFlags::SERVICE);
    let masquerade = view.flags.contains(FlowFlags::MASQUERADED);
    let r = &view.rewrite;
    if view.flags.contains(FlowFlags::REPLY) {
        // The reply's rewrite is the opener's packet reversed, and the reply's source is the backend that the opener reached.
        let origin = origin_of(view.endpoints[1]);
        let query = Query {
            origin,
            tuple: r.to.reversed(),
            proto: key.proto,
        };
        (
            query,
            Target {
                dst: key.tuple.src,
                dport: key.tuple.sport,
                service,
                sticky: false,
                masquerade,
            },
        )
    } else {
        (
            Query::from(key),
            Target {
                dst: r.to.dst,
                dport: r.to.dport,
                service,
                sticky: false,
                masquerade,
            },
        )
    }
}

/// Returns the opener and the other end, from either direction's entry.
fn ends(view: &FlowView) -> (EndpointId, EndpointId) {
    let [from, to] = view.endpoints;
    if view.flags.contains(FlowFlags::REPLY) {
        (to, from)
    } else {
        (from, to)
    }
}

/// Returns true if the connection has the source translation that the entry was compiled with.
fn same_source(allowed: &Allowed, view: &FlowView) -> bool {
    let flags = view.flags & (FlowFlags::HAIRPIN | FlowFlags::MASQUERADED);
    flags
        == match allowed.source {
            Source::Kept => FlowFlags::empty(),
            Source::Hairpin(_) => FlowFlags::HAIRPIN,
            Source::Masqueraded(_) => FlowFlags::MASQUERADED,
        }
}

/// Handles a packet whose entry is stale.
fn stale(cx: &Context<'_>, p: &Parsed, key: &FlowKey, hit: &Hit) -> Next {
    match judge_again(cx, key, hit) {
        Ok(Some(hit)) => Next::Replay(Replay::of(&hit)),
        Ok(None) => Next::Open(None),
        // The backend's pod is gone. After a reset the client connects again at once, and gets another backend.
        Err(denial)
            if denial.reason == DropReason::UnknownDestination
                && p.proto == Proto::TCP
                && hit.view.flags.contains(FlowFlags::SERVICE) =>
        {
            Next::Reply(Reply::Reset(denial.reason))
        }
        Err(denial) => Next::Done(denial.into()),
    }
}

/// Judges a stale entry. The entry of an allowed connection becomes current, with the current MTU of its path. If the connection
/// would now have another path or another translation, the entry is removed and the result is `None`.
///
/// # Errors
/// The denial. An entry that something other than policy denies is removed.
fn judge_again(cx: &Context<'_>, key: &FlowKey, hit: &Hit) -> Result<Option<Hit>, Denial> {
    let (query, target) = connection(key, &hit.view);
    let allowed = decide::judge(cx.snapshot, &query, target).inspect_err(|denial| {
        if !denial.reason.is_policy() {
            cx.flows.remove(hit.slot);
        }
    })?;
    let generations = cx.generations(hit.view.endpoints);
    match generations {
        Some(generations) if (allowed.from, allowed.to()) == ends(&hit.view) && same_source(&allowed, &hit.view) => {
            let mss = fit(cx, &query, &allowed);
            if mss == hit.view.mss_clamp {
                cx.flows.revalidate(hit.slot, generations);
                return Ok(Some(*hit));
            }
            // Only the path's MTU has changed: both directions get the new MSS.
            let [from, to] = hit.view.endpoints;
            cx.flows.reroute(
                hit.slot,
                &Route {
                    egress: egresses(&allowed, &hit.view),
                    endpoints: [from, to],
                    generations,
                    mss_clamp: [mss, mss],
                },
            );
            let mut hit = *hit;
            hit.view.mss_clamp = mss;
            Ok(Some(hit))
        }
        _ => {
            cx.flows.remove(hit.slot);
            Ok(None)
        }
    }
}

/// Returns the egress of the entry's direction and of the other one.
fn egresses(allowed: &Allowed, view: &FlowView) -> [Egress; 2] {
    let (there, back) = (allowed.egress, Egress::Endpoint(allowed.from));
    if view.flags.contains(FlowFlags::REPLY) {
        [back, there]
    } else {
        [there, back]
    }
}

/// Returns the MSS that fits the connection's path.
fn fit(cx: &Context<'_>, query: &Query, allowed: &Allowed) -> u16 {
    let ends = [(allowed.from, query.tuple.src), (allowed.to(), allowed.target.dst)];
    mtu::fit(cx.snapshot, ends).mss()
}

/// Handles a packet of a known tuple that came in from another origin. Either another pod sent it, and it is dropped without an
/// effect on the connection. Or the address has moved to another endpoint of this node, and the entry is changed accordingly.
fn moved(cx: &Context<'_>, key: &FlowKey, hit: &Hit) -> Next {
    // The tables contain the endpoint that has the sender's address now.
    let (query, target) = connection(key, &hit.view);
    let reply = hit.view.flags.contains(FlowFlags::REPLY);
    let allowed = match decide::judge(cx.snapshot, &query, target) {
        Ok(allowed) => allowed,
        Err(denial) => return Next::Done(denial.into()),
    };
    let here = owner(key.origin);
    let (from, to) = if reply {
        (allowed.to(), allowed.from)
    } else {
        (allowed.from, allowed.to())
    };
    // Nothing of the entry may change before this check.
    if from != here {
        return Next::drop(DropReason::SpoofedSource);
    }
    let Some(generations) = cx.generations([from, to]) else {
        return Next::drop(DropReason::UnknownDestination);
    };
    // With another source translation the destination sees another connection, so a new one is opened.
    if !same_source(&allowed, &hit.view) {
        cx.flows.remove(hit.slot);
        return Next::Open(None);
    }
    // The same connection from its new endpoint: change path and origin in place.
    let clamp = fit(cx, &query, &allowed);
    let route = Route {
        egress: egresses(&allowed, &hit.view),
        endpoints: [from, to],
        generations,
        mss_clamp: [clamp, clamp],
    };
    cx.flows.reroute(hit.slot, &route);
    cx.flows.move_origin(hit.slot, key.origin);
    let mut moved = *hit;
    [moved.view.egress, _] = route.egress;
    moved.view.mss_clamp = clamp;
    Next::Replay(Replay::of(&moved))
}
