//! Judges an existing flow against the tables, because they have changed since its evaluation or because a packet came in from
//! another origin.
//!
//! Packets of both directions are judged as packets of the opener. A connection that is allowed keeps its translation. A
//! connection that policy denies keeps its entry, which stays stale: each of its packets is judged again, until policy allows
//! it or the entry expires. If the entry were removed, the next packet would be a mid-stream segment without a flow. While
//! connections are adopted, such a segment could bring the denied connection back: judged in the opposite direction, which policy
//! may not restrict. The same holds for a connection with a node that cannot be reached at the moment: it goes on when the node is
//! back.

use heddle_flow::{Egress, FlowFlags, FlowKey, FlowView, Hit, Origin, Route};
use heddle_tables::EndpointId;
use heddle_wire::{Parsed, Proto};

use super::mtu;
use super::next::{Next, Replay, Reply};
use crate::context::Context;
use crate::decide::{self, Allowed, Denial, Query, Source, Target, owner};
use crate::reason::DropReason;

/// Judges the entry of a packet, and returns its replay if the connection is allowed.
#[cold]
pub(crate) fn revalidate(cx: &Context<'_>, p: &Parsed, key: &FlowKey, hit: &Hit) -> Next {
    // The tables contain the endpoint or the node that has the sender's address now.
    if let Err(denial) = decide::check_source(cx.snapshot, &Query::from(key)) {
        return Next::Done(denial.into());
    }
    if hit.view.origin == key.origin {
        stale(cx, p, key, hit)
    } else {
        moved(cx, key, hit)
    }
}

/// Returns the connection as its opener started it, from either direction's key and entry. `other` is the other direction's.
fn connection(cx: &Context<'_>, key: &FlowKey, view: &FlowView, other: &FlowView) -> (Query, Target) {
    let r = &view.rewrite;
    let target = |dst, dport| Target {
        dst,
        dport,
        service: view.flags.contains(FlowFlags::SERVICE),
        sticky: false,
        masquerade: view.flags.contains(FlowFlags::MASQUERADED),
        forwarded: view.flags.contains(FlowFlags::FORWARDED),
    };
    if view.flags.contains(FlowFlags::REPLY) {
        // The reply's rewrite is the opener's packet reversed, and the reply's source is the backend that the opener reached.
        let tuple = r.to.reversed();
        // The way to the opener's node may be another one than when its last packet came.
        let by_uplink = decide::origin_of(cx.snapshot, tuple.src).filter(|now| owner(*now) == EndpointId::UPLINK);
        let query = Query {
            origin: by_uplink
                .filter(|_| owner(other.origin) == EndpointId::UPLINK)
                .unwrap_or(other.origin),
            tuple,
            proto: key.proto,
        };
        (query, target(key.tuple.src, key.tuple.sport))
    } else {
        (Query::from(key), target(r.to.dst, r.to.dport))
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

/// Judges a stale entry. The entry of an allowed connection becomes current, with the current path and the current MTU. If the
/// connection would now have other ends or another translation, the entry is removed and the result is `None`.
///
/// # Errors
/// The denial. The entry is removed, unless the denial may pass: see [`DropReason::may_pass`].
fn judge_again(cx: &Context<'_>, key: &FlowKey, hit: &Hit) -> Result<Option<Hit>, Denial> {
    let Some(other) = cx.flows.view(hit.slot.peer()) else {
        return Ok(None);
    };
    let (query, target) = connection(cx, key, &hit.view, &other);
    let allowed = decide::judge(cx.snapshot, &query, target).inspect_err(|denial| {
        if !denial.reason.may_pass() {
            cx.flows.remove(hit.slot);
        }
    })?;
    let egress = egresses(cx, &allowed, &hit.view, &other);
    let generations = cx.generations(hit.view.endpoints);
    match generations {
        Some(generations) if has_ends(&allowed, &hit.view, &other) && same_source(&allowed, &hit.view) => {
            let path = mtu::fit(cx.snapshot, query.origin, egress, query.tuple.src.is_v4());
            let before = [hit.view.mss_clamp, other.mss_clamp];
            let mss = before.map(|mss| path.limit(mss, query.proto));
            if mss == before && egress == [hit.view.egress, other.egress] {
                cx.flows.revalidate(hit.slot, generations);
                return Ok(Some(*hit));
            }
            // The path has changed, or only its MTU: both directions get the new MSS.
            cx.flows.reroute(
                hit.slot,
                &Route {
                    egress,
                    endpoints: hit.view.endpoints,
                    generations,
                    mss_clamp: mss,
                },
            );
            let mut hit = *hit;
            [hit.view.egress, _] = egress;
            [hit.view.mss_clamp, _] = mss;
            Ok(Some(hit))
        }
        _ => {
            cx.flows.remove(hit.slot);
            Ok(None)
        }
    }
}

/// Returns true if an allowed connection has the ends that its entry has.
fn has_ends(allowed: &Allowed, view: &FlowView, other: &FlowView) -> bool {
    let (from, to) = ends(view);
    let there = if view.flags.contains(FlowFlags::REPLY) {
        other
    } else {
        view
    };
    allowed.from == from && (allowed.to() == to || allowed.admits(there.egress))
}

/// Returns the egress of the entry's direction and of the other one.
///
/// An egress that the entry has stays if it is as good: the next hop by which a client outside came, and the kernel's way to
/// another node's own address. The numbers of next hops do not outlive an agent: after a start a client's packet shows its next hop
/// again, and until then the kernel routes the replies.
fn egresses(cx: &Context<'_>, allowed: &Allowed, view: &FlowView, other: &FlowView) -> [Egress; 2] {
    let reply = view.flags.contains(FlowFlags::REPLY);
    let (there, back) = if reply { (other, view) } else { (view, other) };
    let there = match allowed.admits(there.egress) {
        true => there.egress,
        false => allowed.egress,
    };
    let back = match (allowed.back, back.egress) {
        (Egress::Uplink(_), Egress::Uplink(hop))
            if view.epoch == cx.flows.epoch() && cx.snapshot.next_hop(hop).is_some() =>
        {
            back.egress
        }
        (back, _) if reply => back,
        (back, _) => cx.way_back(back),
    };
    if reply { [back, there] } else { [there, back] }
}

/// Returns true if the answers to a connection may come in by the uplink, although its packets leave by the kernel. The destination
/// sees the pod's own address then, and packets to pods of this node come by the uplink if any node is reached without a tunnel. The
/// entry keeps the host as its end, because the kernel still routes the pod's packets.
fn comes_by_uplink_too(cx: &Context<'_>, key: &FlowKey, allowed: &Allowed) -> bool {
    key.origin == Origin::UPLINK
        && allowed.egress == Egress::Endpoint(EndpointId::HOST)
        && allowed.source == Source::Kept
        && allowed.from.is_pod()
        && cx.snapshot.node().is_unmasqueraded(key.tuple.src)
}

/// Handles a packet of a known tuple that came in from another origin. Either another sender spoofed it, and it is dropped without
/// an effect on the connection. Or the address has moved to another endpoint or node, and the entry is changed accordingly.
fn moved(cx: &Context<'_>, key: &FlowKey, hit: &Hit) -> Next {
    let Some(other) = cx.flows.view(hit.slot.peer()) else {
        return Next::Open(None);
    };
    let (query, target) = connection(cx, key, &hit.view, &other);
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
    if from != here && !(reply && comes_by_uplink_too(cx, key, &allowed)) {
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
    // The same connection from its new place: change path and origin in place.
    let egress = egresses(cx, &allowed, &hit.view, &other);
    let path = mtu::fit(cx.snapshot, query.origin, egress, query.tuple.src.is_v4());
    let clamp = [hit.view.mss_clamp, other.mss_clamp].map(|mss| path.limit(mss, query.proto));
    let route = Route {
        egress,
        endpoints: [from, to],
        generations,
        mss_clamp: clamp,
    };
    cx.flows.reroute(hit.slot, &route);
    cx.flows.move_origin(hit.slot, key.origin);
    let mut moved = *hit;
    [moved.view.egress, _] = route.egress;
    [moved.view.mss_clamp, _] = clamp;
    Next::Replay(Replay::of(&moved))
}
