//! Judges a connection again whose translation stands: tables have changed since, or its packets come in elsewhere.
//!
//! Both directions are judged by the one in which the connection was opened. What is allowed keeps its translation. What
//! policy forbids by now keeps its entry too, stale: each of its packets is judged again, until policy allows it or it
//! runs out of time. Without an entry a packet of it would belong to no connection, and while connections are adopted it
//! could come back by the direction that policy says nothing about.

use heddle_flow::{Egress, FlowFlags, FlowKey, FlowView, Hit, Origin, Route};
use heddle_port::Packet;
use heddle_tables::EndpointId;
use heddle_wire::{Parsed, Proto};

use super::{flow_hit, local_reply, mtu, new_flow};
use crate::context::Context;
use crate::decide::{self, Allowed, Denial, Query, Source, Target, owner};
use crate::reason::{AnswerKind, DropReason};
use crate::verdict::Verdict;

/// The origin of what an endpoint sends.
pub(crate) const fn origin_of(endpoint: EndpointId) -> Origin {
    match endpoint {
        EndpointId::HOST => Origin::HOST,
        EndpointId::UPLINK => Origin::UPLINK,
        pod => Origin::pod(pod),
    }
}

/// The connection as its opener began it, from either direction's key and entry.
fn connection(key: &FlowKey, view: &FlowView) -> (Query, Target) {
    let service = view.flags.contains(FlowFlags::SERVICE);
    let masquerade = view.flags.contains(FlowFlags::MASQUERADED);
    let r = &view.rewrite;
    if view.flags.contains(FlowFlags::REPLY) {
        // The answer's rewrite is the opener's packet reversed, and the answer's source is what the opener reached.
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

/// Opener and other end, from either direction's entry.
fn ends(view: &FlowView) -> (EndpointId, EndpointId) {
    let [from, to] = view.endpoints;
    if view.flags.contains(FlowFlags::REPLY) {
        (to, from)
    } else {
        (from, to)
    }
}

/// Whether the connection has the source translation that the entry was compiled with.
fn same_source(allowed: &Allowed, view: &FlowView) -> bool {
    let flags = view.flags & (FlowFlags::HAIRPIN | FlowFlags::MASQUERADED);
    flags
        == match allowed.source {
            Source::Kept => FlowFlags::empty(),
            Source::Hairpin(_) => FlowFlags::HAIRPIN,
            Source::Masqueraded(_) => FlowFlags::MASQUERADED,
        }
}

/// The end of a packet whose entry is older than the tables.
#[cold]
pub(crate) fn stale(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: &Hit) -> Verdict {
    match again(cx, key, hit) {
        Ok(Some(hit)) => flow_hit::replay(cx, packet, p, key, &hit),
        Ok(None) => new_flow::open(cx, packet, p, key, None, None),
        // The backend's pod is gone: the client connects again at once, to another one.
        Err(denial)
            if denial.reason == DropReason::UnknownDestination
                && p.proto == Proto::TCP
                && hit.view.flags.contains(FlowFlags::SERVICE) =>
        {
            local_reply::reset(cx, packet, p, AnswerKind::TcpReset, denial.reason)
        }
        Err(denial) => denial.into(),
    }
}

/// Judges an entry that is older than the tables. It stands and is current again, with what its path takes now; or it led
/// somewhere that is no more, and is removed: `None`.
///
/// # Errors
/// It is not allowed now; if anything but policy says so, it is removed.
pub(crate) fn again(cx: &Context<'_>, key: &FlowKey, hit: &Hit) -> Result<Option<Hit>, Denial> {
    let (query, target) = connection(key, &hit.view);
    let allowed = decide::judge(cx.snapshot, &query, target).inspect_err(|denial| {
        if !denial.reason.is_policy() {
            cx.flows.remove(hit.slot);
        }
    })?;
    let generations = cx.generations(hit.view.endpoints);
    match generations {
        Some(generations) if (allowed.from, allowed.to) == ends(&hit.view) && same_source(&allowed, &hit.view) => {
            let mss = fit(cx, &query, &allowed);
            if mss == hit.view.mss_clamp {
                cx.flows.revalidate(hit.slot, generations);
                return Ok(Some(*hit));
            }
            let [from, to] = hit.view.endpoints;
            cx.flows.reroute(
                hit.slot,
                &Route {
                    egress: [Egress::Endpoint(to), Egress::Endpoint(from)],
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

/// What the path of an allowed connection takes, as the MSS that fits.
fn fit(cx: &Context<'_>, query: &Query, allowed: &Allowed) -> u16 {
    let ends = [(allowed.from, query.tuple.src), (allowed.to, allowed.target.dst)];
    mtu::fit(cx.snapshot, ends).mss()
}

/// The end of a packet of a known tuple that comes in elsewhere: another pod's, which is dropped and leaves the connection
/// alone, or the same end's, which has moved.
#[cold]
pub(crate) fn moved(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: &Hit) -> Verdict {
    let (query, target) = connection(key, &hit.view);
    let reply = hit.view.flags.contains(FlowFlags::REPLY);
    let allowed = match decide::judge(cx.snapshot, &query, target) {
        Ok(allowed) => allowed,
        Err(denial) => return denial.into(),
    };
    let here = owner(key.origin);
    let (from, to) = if reply {
        (allowed.to, allowed.from)
    } else {
        (allowed.from, allowed.to)
    };
    if from != here {
        return Verdict::drop(DropReason::SpoofedSource);
    }
    let Some(generations) = cx.generations([from, to]) else {
        return Verdict::drop(DropReason::UnknownDestination);
    };
    if !same_source(&allowed, &hit.view) {
        cx.flows.remove(hit.slot);
        return new_flow::open(cx, packet, p, key, None, None);
    }
    let clamp = fit(cx, &query, &allowed);
    let route = Route {
        egress: [Egress::Endpoint(to), Egress::Endpoint(from)],
        endpoints: [from, to],
        generations,
        mss_clamp: [clamp, clamp],
    };
    cx.flows.reroute(hit.slot, &route);
    cx.flows.move_origin(hit.slot, key.origin);
    let mut moved = *hit;
    moved.view.egress = Egress::Endpoint(to);
    moved.view.mss_clamp = clamp;
    flow_hit::replay(cx, packet, p, key, &moved)
}
