//! A packet without a flow of its own: one that another place knows, the first of a connection, or one in the middle of none.

use heddle_flow::{FlowFlags, FlowKey, SlotId};
use heddle_port::Packet;
use heddle_tables::{EndpointId, NodeTable, Place};
use heddle_wire::{IcmpMessage, Parsed, Proto, TcpFlags};

use super::forward;
use super::insert::{self, Inserted};
use super::revalidate::{self, origin_of};
use super::{flow_hit, local_reply};
use crate::context::Context;
use crate::decide::{self, Allowed, Decision, Query, Target, owner};
use crate::reason::{AnswerKind, DropReason};
use crate::verdict::Verdict;

/// The end of a packet whose key is not in the table.
#[cold]
pub(crate) fn dispatch_miss(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    key: &FlowKey,
    decided: Option<&Decision>,
) -> Verdict {
    cx.stages.slow += 1;
    match cx.flows.find_tuple(&key.tuple, key.proto, cx.now) {
        // An earlier packet of this burst, or another worker, has opened it by now.
        Some(hit) if hit.view.origin == key.origin => flow_hit::found(cx, packet, p, key, &hit),
        Some(hit) if p.tcp_flags.opens() && !hit.view.admits_syn() => open(cx, packet, p, key, Some(hit.slot), decided),
        Some(hit) => revalidate::moved(cx, packet, p, key, &hit),
        None => open(cx, packet, p, key, None, decided),
    }
}

/// The end of a packet that opens a connection, or should have. `replaces` is the entry that a new connection of the same
/// tuple takes the place of, once it is allowed; `decided` what becomes of it, where that is known.
#[cold]
pub(crate) fn open(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    key: &FlowKey,
    replaces: Option<SlotId>,
    decided: Option<&Decision>,
) -> Verdict {
    let query = Query::from(key);
    let decision = match decided {
        Some(decided) => *decided,
        None if opens(p) => decide::decide_with(cx.snapshot, &query, cx.selector()),
        None => return opens_nothing(cx, packet, p, &query),
    };
    match decision {
        Decision::Pass(allowed) => {
            decide::remember(cx.snapshot, &query, &allowed.target, cx.flows.affinities(), cx.now);
            if let Some(old) = replaces {
                cx.flows.remove(old);
            }
            match insert::insert(cx, &query, &allowed, FlowFlags::empty()) {
                Ok(inserted) => first(cx, packet, p, inserted.forward),
                Err(reason) => Verdict::drop(reason),
            }
        }
        Decision::Reject => local_reply::reject(cx, packet, p),
        Decision::Gateway => local_reply::to_gateway(cx, packet, p),
        Decision::Drop(denial) => denial.into(),
    }
}

/// Whether a packet opens a connection, if none is known.
pub(crate) fn opens(p: &Parsed) -> bool {
    let tcp = p.proto == Proto::TCP && !p.tcp_flags.opens();
    !tcp && p.ttl > 1 && p.icmp() != Some(IcmpMessage::EchoReply)
}

/// The end of a packet that belongs to no connection and opens none.
fn opens_nothing(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, query: &Query) -> Verdict {
    if let Err(denial) = decide::check_source(cx.snapshot, query) {
        return denial.into();
    }
    if NodeTable::is_gateway(p.dst) {
        return local_reply::to_gateway(cx, packet, p);
    }
    if p.ttl <= 1 {
        return local_reply::time_exceeded(cx, packet, p);
    }
    if p.proto == Proto::TCP {
        return midstream(cx, packet, p, query);
    }
    Verdict::drop(DropReason::IcmpWithoutFlow)
}

/// A segment in the middle of no connection: adopted for a while after a start without a table, else answered by a reset.
fn midstream(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, query: &Query) -> Verdict {
    if cx.now < cx.stages.config.adopt_until && !p.tcp_flags.contains(TcpFlags::RST) {
        let adopted = match adopt_as_seen(cx, query) {
            Some((query, allowed)) => insert::insert(cx, &query, &allowed, FlowFlags::ADOPTED).map(|i| i.forward),
            None => match adopt_as_answer(cx, query) {
                Some((query, allowed)) => insert::insert(cx, &query, &allowed, FlowFlags::ADOPTED).map(|i| i.reverse),
                None => return reset(cx, packet, p),
            },
        };
        return match adopted {
            Ok(direction) => first(cx, packet, p, direction),
            Err(reason) => Verdict::drop(reason),
        };
    }
    reset(cx, packet, p)
}

fn reset(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    local_reply::reset(cx, packet, p, AnswerKind::TcpReset, DropReason::TcpWithoutFlow)
}

/// The segment is its opener's: it may pass as a new connection would, through a Service where the hash chooses again.
fn adopt_as_seen(cx: &mut Context<'_>, query: &Query) -> Option<(Query, Allowed)> {
    match decide::decide_with(cx.snapshot, query, cx.selector()) {
        Decision::Pass(allowed) => Some((*query, allowed)),
        Decision::Reject | Decision::Gateway | Decision::Drop(_) => None,
    }
}

/// The segment is an answer: its connection may have been opened the other way.
fn adopt_as_answer(cx: &Context<'_>, query: &Query) -> Option<(Query, Allowed)> {
    if cx.snapshot.is_cluster_address(query.tuple.dst) {
        // Nobody opens connections from the address of a Service.
        return None;
    }
    let opener = match cx.snapshot.address(query.tuple.dst).place {
        Place::Local(pod) => pod,
        Place::Unreachable => return None,
        Place::Host | Place::Node(_) | Place::RemoteHost(_) | Place::Outside => EndpointId::HOST,
    };
    let opened = Query {
        origin: origin_of(opener),
        tuple: query.tuple.reversed(),
        proto: query.proto,
    };
    let target = Target::direct(query.tuple.src, query.tuple.sport);
    let allowed = decide::judge(cx.snapshot, &opened, target).ok()?;
    (allowed.to == owner(query.origin)).then_some((opened, allowed))
}

/// Sends the packet that made its flow.
fn first(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, direction: Inserted) -> Verdict {
    cx.flows.touch(direction.slot, cx.now, packet.len(), p.tcp_flags);
    forward::forward(cx, packet, p, &direction.plan)
}
