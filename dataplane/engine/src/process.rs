//! The driver: takes a burst through the stages. It uses packets and tables, no ring, no socket and no clock.
//!
//! ```text
//!  parse ─ classify ─┬─ verdict (malformed, spoofed, unsupported)
//!                    ├─ neighbor (ARP, neighbor discovery) ─ local reply or verdict
//!                    └─ flow key: one lookup for the whole burst
//!                         ├─ hit, current ──────────────────────────────► Replay
//!                         ├─ hit, stale ─► Revalidate ─┬────────────────► Replay
//!                         ├─ miss, other origin ───────┘     ▲
//!                         └─ miss ─► Open ───────────────────┘
//!  Replay ─┬─ forward: verdict            Revalidate, Open ─┬─ Reply
//!          ├─ Reply (TTL used up, too big)                  └─ verdict
//!          └─ Open (the connection was removed meanwhile)
//! ```
//!
//! Every stage returns the next step ([`Next`]), and the driver calls the next stage: [`replay`] on the hot path, the loop of
//! [`slow_path`] in all other cases. Fragments that wait for their first one leave the burst and re-enter here ([`reenter`])
//! without the caller's help.

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_flow::{Egress, FlowKey, FlowTable, Hit, Millis, Origin, SlotId};
use heddle_port::{BURST, FrameStore, Packet, PacketVec, WorkerPool};
use heddle_tables::Snapshot;
use heddle_wire::{Fragment, Parsed, TcpFlags, ether, parse, simd};

use crate::batch::{Batch, Kind, Pending, Reentered};
use crate::context::{Context, SLOW_PATH_UNITS, Stages};
use crate::ingress::Ingress;
use crate::reason::DropReason;
use crate::reassembly::Ticket;
use crate::stage::classify::{Class, classify};
use crate::stage::fragment_in::{self, Fate};
use crate::stage::next::{Next, Plan, Replay, Reply};
use crate::stage::{flow_hit, forward, icmp_error, local_reply, mtu, neighbor, new_flow, revalidate, tunnel};
use crate::verdict::Verdict;

/// The tables that a burst is looked up in.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// The published tables.
    pub snapshot: &'a Snapshot,
    /// The flow table.
    pub flows: &'a FlowTable,
}

/// Steps of one packet through the slow path. The longest regular path has five (Revalidate, Open, Replay, Reply, Done); more
/// of them mean that other workers keep removing the connection.
const MAX_STEPS: u32 = 12;

/// Gives each packet of the burst its verdict. Headers of forwarded packets are rewritten, and frames of packets with a local
/// reply contain the reply. No packet is sent or counted. The only frames that are freed, into `pool`, are the ones behind the
/// head frame of a packet that got a reply.
///
/// Fragments that wait for the first one of their datagram leave the burst, and `stages` holds them. Held fragments that are
/// ready or given up get their verdicts in the same call and are in the batch too ([`Batch::drain`]).
///
/// Plan: parse and classify every packet, and give those without a flow their verdicts; look up all flows at once, so that the
/// burst waits for memory once; then finish packet by packet, because an earlier packet may open the connection of a later
/// one.
pub fn process(
    stages: &mut Stages,
    batch: &mut Batch,
    ingress: Ingress,
    tables: Tables<'_>,
    pool: &mut WorkerPool,
    now: Millis,
) {
    // One snapshot and one endpoint for the whole burst.
    batch.begin();
    stages.slow_left = SLOW_PATH_UNITS;
    let Some(endpoint) = tables.snapshot.endpoint(ingress.role.endpoint()) else {
        // The snapshot has no endpoint for the port yet, or no longer. Without a policy to judge by, drop everything.
        batch.verdicts.fill(Verdict::drop(DropReason::PolicyNotReady));
        return;
    };
    let store: Arc<FrameStore> = Arc::clone(pool.store_arc());
    let mut cx = Context {
        stages,
        pool,
        store: &store,
        snapshot: tables.snapshot,
        flows: tables.flows,
        now,
        ingress,
        endpoint,
        neighbor: None,
        mss_option: 0,
        last_sender: None,
    };
    let Batch {
        packets,
        verdicts,
        pending,
        keys,
        hits,
        waiting,
        reentered,
    } = batch;
    // Prefetch all headers, because the parser would wait for each packet's memory in turn.
    let from_uplink = cx.is_from_uplink();
    for packet in packets.iter() {
        let head = packet.bytes(&store);
        simd::prefetch(head);
        // The inner headers of a tunnel are behind the first cache line.
        if from_uplink {
            simd::prefetch(head.get(64..).unwrap_or_default());
        }
    }
    // Parse and classify. A packet either gets its verdict here or is appended to `pending` and `keys`.
    for (at, packet) in packets.iter_mut().enumerate() {
        if from_uplink && let Err(reason) = tunnel::receive(&mut cx, packet) {
            set(verdicts, at, Verdict::drop(reason));
            continue;
        }
        let head = packet.bytes(&store);
        let parsed = parse(head, packet.len() as usize);
        let parsed = match &parsed {
            Ok(parsed) => parsed,
            Err(e) => {
                set(verdicts, at, Verdict::drop((*e).into()));
                continue;
            }
        };
        let (key, kind) = match classify(&cx, head, parsed) {
            Class::Flow(key) => (key, flow_packet_kind(parsed)),
            Class::IcmpError(key) => (key, Kind::IcmpError),
            Class::Link => {
                let verdict = link(&mut cx, packet, parsed);
                set(verdicts, at, verdict);
                continue;
            }
            Class::Done(done) => {
                if parsed.fragment == Fragment::First {
                    fragment_in::refuse_first(&mut cx, parsed);
                }
                set(verdicts, at, done);
                continue;
            }
        };
        pending.push(Pending {
            at: at as u8,
            parsed: *parsed,
            kind,
        });
        keys.push(key);
    }
    // Look up all keys together, so that their cache misses overlap.
    cx.flows.lookup(keys, now, hits);
    if cx.snapshot.node().tunnel.is_some() {
        prefetch_headroom(packets, pending, hits, &store);
    }
    // Finish packet by packet, in order: an earlier packet may open the connection of a later one.
    for ((Pending { at, parsed, kind }, key), hit) in pending.iter().zip(keys.iter()).zip(hits.iter()) {
        let index = usize::from(*at);
        let (Some(packet), Some(verdict)) = (packets.get_mut(index), verdicts.get_mut(index)) else {
            continue;
        };
        if from_uplink {
            // Packets of the uplink have different ones.
            cx.ingress.origin = key.origin;
        }
        // The common case first: a whole packet that hits.
        *verdict = match kind {
            Kind::Whole => match hit {
                Some(hit) => finish_hit(&mut cx, packet, parsed, key, hit),
                None => finish_miss(&mut cx, packet, parsed, key),
            },
            Kind::FirstFragment => finish_first_fragment(&mut cx, packet, parsed, key, hit.as_ref()),
            Kind::LaterFragment => match finish_later_fragment(&mut cx, packet, parsed) {
                Ok(verdict) => verdict,
                Err(ticket) => {
                    waiting.push((*at, ticket, key.origin));
                    continue;
                }
            },
            Kind::IcmpError => finish_icmp_error(&mut cx, packet, parsed, key, hit.as_ref()),
        };
    }
    // Move the fragments that wait for their first one out of the burst. Only then give the ready ones their verdicts, because a
    // fragment whose first one came later in the same burst is among them.
    if !waiting.is_empty() {
        hold_waiting(&mut cx, packets, verdicts, waiting);
        // Packets have left the burst, so the indices in `pending` are not valid any more.
        pending.clear();
    }
    if cx.stages.datagrams.has_finished() {
        reenter(&mut cx, reentered);
        cx.stages.drop_given_up(batch);
    }
}

/// Sets the verdict on a packet that needs no flow.
#[cold]
#[inline(never)]
fn set(verdicts: &mut [Verdict; BURST], at: usize, verdict: Verdict) {
    if let Some(place) = verdicts.get_mut(at) {
        *place = verdict;
    }
}

/// Prefetches the memory of the outer headers of packets that leave for other nodes. Nothing has read it, so their writes would wait.
#[inline(never)]
fn prefetch_headroom(packets: &PacketVec, pending: &[Pending], hits: &[Option<Hit>], store: &FrameStore) {
    for (Pending { at, .. }, hit) in pending.iter().zip(hits) {
        if let Some(hit) = hit
            && matches!(hit.view.egress, Egress::Node(_))
            && let Some(packet) = packets.get(usize::from(*at))
        {
            simd::prefetch_before(packet.bytes(store));
        }
    }
}

/// Returns the kind of a packet with a flow key of its own.
#[inline]
fn flow_packet_kind(p: &Parsed) -> Kind {
    if !p.is_fragment() {
        Kind::Whole
    } else if p.is_later_fragment() {
        Kind::LaterFragment
    } else {
        Kind::FirstFragment
    }
}

/// Finishes a whole packet whose key hit the flow table.
///
/// On the hot path the entry is current and its rewrite is replayed. All other cases take the slow path.
#[inline(always)]
fn finish_hit(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: &Hit) -> Verdict {
    // The common case first. It takes the plan straight from the entry, because a `Next` would copy the rewrite for each packet.
    let next = if flow_hit::is_replayable(cx, p, hit) {
        match replay(cx, packet, p, key, hit.slot, Plan::of(&hit.view)) {
            Next::Done(verdict) => return verdict,
            next => next,
        }
    } else {
        cx.stages.slow += 1;
        flow_hit::check(cx, p, hit)
    };
    slow_path(cx, packet, p, key, Kind::Whole, next)
}

/// [`finish_hit`] for first fragments.
#[inline(never)]
fn finish_hit_outlined(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, hit: &Hit) -> Verdict {
    finish_hit(cx, packet, p, key, hit)
}

/// Finishes a packet whose key missed the flow table. Looks once more, by the tuple alone: an earlier packet of the burst or
/// another worker may have opened the connection by now, or the tuple is known from another origin.
#[cold]
#[inline(never)]
fn finish_miss(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey) -> Verdict {
    cx.stages.slow += 1;
    let next = match cx.flows.find_tuple(key, cx.now) {
        None => Next::Open(None),
        Some(hit) if hit.view.origin == key.origin => flow_hit::check(cx, p, &hit),
        Some(hit) if p.opens && !hit.view.admits_syn() => Next::Open(Some(hit.slot)),
        Some(hit) => Next::Revalidate(hit),
    };
    slow_path(cx, packet, p, key, Kind::Whole, next)
}

/// Finishes the first fragment of a datagram like a whole packet, and records its verdict for the later fragments.
#[cold]
#[inline(never)]
fn finish_first_fragment(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    key: &FlowKey,
    hit: Option<&Hit>,
) -> Verdict {
    let ticket = match fragment_in::register_first(cx, p, key) {
        Ok(ticket) => ticket,
        Err(reason) => return Verdict::drop(reason),
    };
    let verdict = match hit {
        Some(hit) => finish_hit_outlined(cx, packet, p, key, hit),
        None => finish_miss(cx, packet, p, key),
    };
    fragment_in::record_first(cx, ticket, key, verdict);
    verdict
}

/// Finishes a later fragment, or returns the ticket with which it waits for the first one.
#[cold]
#[inline(never)]
fn finish_later_fragment(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Result<Verdict, Ticket> {
    let key = match fragment_in::later(cx, p) {
        Fate::Follow(key) => key,
        Fate::Wait(ticket) => return Err(ticket),
        Fate::Done(verdict) => return Ok(verdict),
    };
    let next = fragment_in::find_flow(cx, &key);
    cx.stages.slow += u64::from(matches!(next, Next::Revalidate(_)));
    Ok(slow_path(cx, packet, p, &key, Kind::LaterFragment, next))
}

/// Finishes an ICMP error; `key` is that of the replies to the packet that it quotes.
#[cold]
#[inline(never)]
fn finish_icmp_error(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    key: &FlowKey,
    hit: Option<&Hit>,
) -> Verdict {
    cx.stages.slow += 1;
    let next = icmp_error::check(cx, packet, p, key, hit);
    slow_path(cx, packet, p, key, Kind::IcmpError, next)
}

/// Finishes an ARP packet or an ICMP message of the link.
#[cold]
#[inline(never)]
fn link(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    let next = neighbor::handle(cx, packet, p);
    let key = FlowKey::of(p, cx.origin());
    slow_path(cx, packet, p, &key, Kind::Whole, next)
}

/// Calls stage after stage until the packet has its verdict.
#[cold]
#[inline(never)]
fn slow_path(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    key: &FlowKey,
    kind: Kind,
    mut next: Next,
) -> Verdict {
    let Some(left) = cx.stages.slow_left.checked_sub(1) else {
        return Verdict::drop(DropReason::SlowPathLimit);
    };
    cx.stages.slow_left = left;
    cx.neighbor = match cx.is_from_uplink() {
        true => ether::source(packet.bytes(cx.store)),
        false => None,
    };
    for _ in 0..MAX_STEPS {
        next = match permit(kind, next) {
            Next::Replay(direction) if kind == Kind::IcmpError => icmp_error::forward(cx, packet, p, &direction),
            Next::Replay(direction) => replay_outlined(cx, packet, p, key, &direction),
            Next::Revalidate(hit) => revalidate::revalidate(cx, p, key, &hit),
            Next::Open(replaces) => new_flow::open(cx, p, key, replaces),
            Next::Reply(reply) => Next::Done(local_reply::send(cx, packet, p, reply)),
            Next::Done(verdict) => return verdict,
        };
    }
    Verdict::drop(DropReason::FlowContended)
}

/// Turns the steps that a kind of packet must not cause into drops. Later fragments and ICMP errors open no connection and get
/// no reply (RFC 1122 section 3.2.2).
fn permit(kind: Kind, next: Next) -> Next {
    let without_flow = match kind {
        Kind::Whole | Kind::FirstFragment => return next,
        Kind::LaterFragment => DropReason::FragmentWithoutFlow,
        Kind::IcmpError => DropReason::IcmpWithoutFlow,
    };
    match next {
        Next::Open(_) => Next::drop(without_flow),
        Next::Reply(reply) => Next::drop(reply.otherwise()),
        next => next,
    }
}

/// Counts a packet in its flow's entry, applies the entry's rewrite and forwards the packet.
///
/// The TTL comes first, because a packet whose TTL is used up does not count in the flow. If `touch` returns false, the entry was
/// removed since the lookup, and a new entry of the same tuple is looked for.
#[inline(always)]
fn replay(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, slot: SlotId, plan: Plan<'_>) -> Next {
    if p.ttl <= 1 {
        return Next::Reply(Reply::TimeExceeded);
    }
    if cx.flows.touch(slot, cx.now, packet.len(), p.tcp_flags) {
        if p.tcp_flags.contains(TcpFlags::SYN) {
            mtu::note_announced(cx, packet, p, slot);
        }
        forward::forward(cx, packet, p, plan)
    } else {
        flow_hit::find_successor(cx, key)
    }
}

/// [`replay`] for the slow path. Only the hot path has an inlined copy of the code.
#[inline(never)]
fn replay_outlined(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, key: &FlowKey, direction: &Replay) -> Next {
    replay(cx, packet, p, key, direction.slot, direction.plan())
}

/// Moves the waiting fragments out of the burst. The other packets stay in order, each with its verdict.
#[cold]
fn hold_waiting(
    cx: &mut Context<'_>,
    packets: &mut PacketVec,
    verdicts: &mut [Verdict],
    waiting: &mut ArrayVec<(u8, Ticket, Origin), BURST>,
) {
    let all = std::mem::take(packets);
    let mut waiting = waiting.drain(..).peekable();
    for (at, mut packet) in all.into_iter().enumerate() {
        let mut verdict = verdicts.get(at).copied();
        if let Some((_, ticket, origin)) = waiting.next_if(|(place, ..)| usize::from(*place) == at) {
            cx.ingress.origin = origin;
            match cx.stages.datagrams.hold(packet, cx.ingress, ticket) {
                Ok(()) => continue,
                Err((refused, reason)) => {
                    packet = refused;
                    verdict = Some(Verdict::drop(reason));
                }
            }
        }
        if let (Some(place), Some(verdict)) = (verdicts.get_mut(packets.len()), verdict) {
            *place = verdict;
        }
        packets.push(packet);
    }
}

/// Gives the ready fragments their verdicts, as if they came in now.
///
/// They may have come in by other ports than the burst, so each has its own ingress. A fragment whose datagram was removed
/// while it was held waits again.
#[cold]
fn reenter(cx: &mut Context<'_>, reentered: &mut Vec<Reentered>) {
    while let Some((mut packet, ingress)) = cx.stages.datagrams.take_ready() {
        let verdict = match cx.snapshot.endpoint(ingress.role.endpoint()) {
            None => Verdict::drop(DropReason::PolicyNotReady),
            Some(endpoint) => {
                (cx.ingress, cx.endpoint) = (ingress, endpoint);
                match reenter_one(cx, &mut packet) {
                    Ok(verdict) => verdict,
                    Err(ticket) => match cx.stages.datagrams.hold(packet, ingress, ticket) {
                        Ok(()) => continue,
                        Err((refused, reason)) => {
                            packet = refused;
                            Verdict::drop(reason)
                        }
                    },
                }
            }
        };
        reentered.push(Reentered {
            packet,
            ingress,
            verdict,
        });
    }
}

/// Finishes a fragment that was held. Its endpoint's MAC address and the tables may have changed, so it is classified again.
fn reenter_one(cx: &mut Context<'_>, packet: &mut Packet) -> Result<Verdict, Ticket> {
    let head = packet.bytes(cx.store);
    let parsed = match parse(head, packet.len() as usize) {
        Ok(parsed) => parsed,
        Err(e) => return Ok(Verdict::drop(e.into())),
    };
    match classify(cx, head, &parsed) {
        Class::Flow(_) => finish_later_fragment(cx, packet, &parsed),
        Class::Done(verdict) => Ok(verdict),
        // Only later fragments are held, and those are neither errors nor messages of the link.
        Class::IcmpError(_) | Class::Link => Ok(Verdict::drop(DropReason::NoVerdict)),
    }
}

#[cfg(test)]
mod tests;
