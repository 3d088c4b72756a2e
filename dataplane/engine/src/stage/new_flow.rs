//! Opens a connection for a packet without a flow entry, or adopts a TCP connection in mid-stream.
//!
//! Decides (Service, policy, route), inserts both directions, and returns the packet's own direction for replay. A packet that
//! opens no connection gets a reset, a local reply or an ICMP error, or is dropped.

mod insert;
mod refusals;

use heddle_flow::{FlowFlags, FlowKey, Origin, SlotId};
use heddle_tables::NodeTable;
use heddle_wire::{IcmpMessage, Parsed, Proto, TcpFlags};

use super::next::{Next, Reply};
use crate::context::Context;
use crate::decide::{self, Allowed, Decision, Query, Source, Target};
use crate::reason::DropReason;

pub(crate) use refusals::Refusals;

/// Opens a connection.
///
/// `replaces` is an entry of the same tuple. It is removed if the new connection is allowed, and stays if it is denied.
#[cold]
pub(crate) fn open(cx: &mut Context<'_>, p: &Parsed, key: &FlowKey, replaces: Option<SlotId>) -> Next {
    let query = Query::from(key);
    if !opens(p) {
        return opens_nothing(cx, p, &query);
    }
    let hash = cx.flows.secret_hash(&key.tuple, key.proto);
    if let Some(reason) = cx.stages.refusals.find(hash, key, cx.now) {
        return Next::drop(reason);
    }
    match decide::decide_with(cx.snapshot, &query, cx.selector()) {
        Decision::Pass(allowed) => {
            decide::remember(cx.snapshot, &query, &allowed.target, cx.flows.affinities(), cx.now);
            if let Some(old) = replaces {
                cx.flows.remove(old);
            }
            match insert::insert(cx, &query, &allowed, FlowFlags::empty(), hash) {
                Ok(inserted) => Next::Replay(inserted.forward),
                Err(reason) => {
                    cx.stages.refusals.record(hash, key, cx.now, reason);
                    Next::drop(reason)
                }
            }
        }
        Decision::Reject => Next::Reply(Reply::Reject),
        Decision::Gateway => Next::Reply(Reply::Gateway),
        Decision::Drop(denial) => Next::Done(denial.into()),
    }
}

/// Returns true if a packet without a flow entry opens a connection. A mid-stream TCP segment, an echo reply, and a packet whose
/// TTL ends here do not.
fn opens(p: &Parsed) -> bool {
    let midstream = p.proto == Proto::TCP && !p.opens;
    !midstream && p.ttl > 1 && p.icmp() != Some(IcmpMessage::EchoReply)
}

/// Handles a packet that belongs to no connection and opens none. Its source is checked first: a spoofed packet gets no reply.
fn opens_nothing(cx: &mut Context<'_>, p: &Parsed, query: &Query) -> Next {
    if let Err(denial) = decide::check_source(cx.snapshot, query) {
        return Next::Done(denial.into());
    }
    if NodeTable::is_gateway(p.dst) {
        return Next::Reply(Reply::Gateway);
    }
    // heddle is no router between others, and does not answer in their place: a reset would end their connection.
    if decide::is_for_others(cx.snapshot, query) {
        return Next::drop(DropReason::NoRoute);
    }
    if p.ttl <= 1 {
        return Next::Reply(Reply::TimeExceeded);
    }
    if p.proto == Proto::TCP {
        return midstream(cx, p, query);
    }
    Next::drop(DropReason::IcmpWithoutFlow)
}

/// Handles a mid-stream TCP segment without a flow entry. If its connection is one that this node forwards, the backend's node knows
/// it. For a configured time after a start without a flow table, its connection is adopted if policy allows either direction.
/// Otherwise the segment gets a reset, so that its sender connects again at once.
fn midstream(cx: &mut Context<'_>, p: &Parsed, query: &Query) -> Next {
    let reset = Next::Reply(Reply::Reset(DropReason::TcpWithoutFlow));
    if let Some(next) = forward_midstream(cx, query) {
        return next;
    }
    if cx.now >= cx.stages.config.adopt_until || p.tcp_flags.contains(TcpFlags::RST) {
        return reset;
    }
    let hash = cx.flows.secret_hash(&query.tuple, query.proto);
    let adopted = match adopt_as_seen(cx, query) {
        Some((query, allowed)) => {
            insert::insert(cx, &query, &allowed, FlowFlags::ADOPTED, hash).map(|pair| pair.forward)
        }
        None => match adopt_as_reply(cx, query) {
            Some((query, allowed)) => {
                // Charge the sender and not the supposed opener, which may never have opened the connection.
                let flags = FlowFlags::ADOPTED | FlowFlags::RESPONDER_PAYS;
                insert::insert(cx, &query, &allowed, flags, hash).map(|pair| pair.reverse)
            }
            None => return reset,
        },
    };
    match adopted {
        Ok(direction) => Next::Replay(direction),
        Err(reason) => Next::drop(reason),
    }
}

/// Forwards a mid-stream segment to the node that the choice of a backend gives, if its connection is answered from there directly.
/// The entry was displaced, or the connection came in by another node before. That node resets a connection that it does not know.
fn forward_midstream(cx: &mut Context<'_>, query: &Query) -> Option<Next> {
    if query.origin != Origin::UPLINK {
        return None;
    }
    let (query, allowed) = adopt_as_seen(cx, query)?;
    if !allowed.target.forwarded {
        return None;
    }
    let hash = cx.flows.secret_hash(&query.tuple, query.proto);
    Some(match insert::insert(cx, &query, &allowed, FlowFlags::empty(), hash) {
        Ok(pair) => Next::Replay(pair.forward),
        Err(reason) => Next::drop(reason),
    })
}

/// Judges the segment as one of the connection's opener, like a new connection. A Service's backend is chosen again.
fn adopt_as_seen(cx: &mut Context<'_>, query: &Query) -> Option<(Query, Allowed)> {
    match decide::decide_with(cx.snapshot, query, cx.selector()) {
        Decision::Pass(allowed) => Some((*query, allowed)),
        Decision::Reject | Decision::Gateway | Decision::Drop(_) => None,
    }
}

/// Judges the segment as a reply: the other end may have opened the connection.
fn adopt_as_reply(cx: &Context<'_>, query: &Query) -> Option<(Query, Allowed)> {
    if cx.snapshot.is_cluster_address(query.tuple.dst) {
        // No connection is opened from the address of a Service.
        return None;
    }
    let opened = Query {
        origin: decide::origin_of(cx.snapshot, query.tuple.dst)?,
        tuple: query.tuple.reversed(),
        proto: query.proto,
    };
    let target = Target::direct(query.tuple.src, query.tuple.sport);
    let allowed = decide::judge(cx.snapshot, &opened, target).ok()?;
    // The reply of a masqueraded connection goes to this node's own address, so this segment is none.
    (allowed.reply_origin == query.origin && allowed.source == Source::Kept).then_some((opened, allowed))
}
