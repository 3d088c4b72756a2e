//! The way of a burst through the stages: packets and tables only, no ring, no socket, no clock.
//!
//! parse and classify -> look up all flows at once -> decide at once the connections that are opened -> for each packet:
//! replay its flow's rewrite, or take the slow path.

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_flow::{FlowTable, Millis};
use heddle_port::{BURST, FrameStore, PacketVec, WorkerPool};
use heddle_tables::Snapshot;
use heddle_wire::{Fragment, parse, simd};

use crate::batch::{Batch, Kind, Pending};
use crate::context::{Context, Ingress, Stages};
use crate::reason::DropReason;
use crate::reassembly::Ticket;
use crate::stage::{classify, decide_burst, flow_hit, fragment_in, icmp_error, new_flow};
use crate::verdict::Verdict;

/// The tables that a burst is looked up in.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// What control published.
    pub snapshot: &'a Snapshot,
    /// The connections.
    pub flows: &'a FlowTable,
}

/// Gives each packet of the burst its verdict. Headers of forwarded packets are rewritten, frames of answered ones hold
/// the answer; nothing is sent, counted or freed but the further frames of answered chains, which go to `pool`.
///
/// Fragments that wait for the first one of their datagram leave the burst: `stages` holds them, until [`Stages::release`] or
/// [`Stages::give_up`] gives them back.
pub fn process(
    stages: &mut Stages,
    batch: &mut Batch,
    ingress: Ingress,
    tables: Tables<'_>,
    pool: &mut WorkerPool,
    now: Millis,
) {
    batch.begin();
    let Some(endpoint) = tables.snapshot.endpoint(ingress.role.endpoint()) else {
        // The port is there before or after its endpoint: fail closed.
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
    };
    let Batch {
        packets,
        verdicts,
        pending,
        keys,
        hits,
        decided,
        waiting,
    } = batch;
    packets.iter().for_each(|packet| simd::prefetch(packet.bytes(&store)));
    for (at, (packet, verdict)) in packets.iter_mut().zip(verdicts.iter_mut()).enumerate() {
        let parsed = parse(packet.bytes(&store), packet.len() as usize);
        let parsed = match &parsed {
            Ok(parsed) => parsed,
            Err(e) => {
                *verdict = Verdict::drop((*e).into());
                continue;
            }
        };
        let (key, kind) = match classify::classify(&mut cx, packet, parsed) {
            classify::Class::Flow(key) if parsed.is_fragment() => (key, Kind::Fragment),
            classify::Class::Flow(key) => (key, Kind::Whole),
            classify::Class::Quote(key) => (key, Kind::Quote),
            classify::Class::Done(done) => {
                if parsed.fragment == Fragment::First {
                    fragment_in::refused(&mut cx, parsed);
                }
                *verdict = done;
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
    cx.flows.lookup(keys, now, hits);
    for (no, ((Pending { at, parsed, kind }, key), hit)) in pending.iter().zip(keys.iter()).zip(hits.iter()).enumerate()
    {
        let place = usize::from(*at);
        let (Some(packet), Some(verdict)) = (packets.get_mut(place), verdicts.get_mut(place)) else {
            continue;
        };
        *verdict = match kind {
            Kind::Whole if hit.is_none() => {
                if decided.is_empty() {
                    decide_burst::decide_burst(&mut cx, no, pending, keys, hits, decided);
                }
                new_flow::dispatch_miss(&mut cx, packet, parsed, key, decided.get(no).and_then(Option::as_ref))
            }
            Kind::Whole => flow_hit::whole(&mut cx, packet, parsed, key, hit.as_ref()),
            Kind::Quote => icmp_error::error(&mut cx, packet, parsed, key, *hit),
            Kind::Fragment => match fragment_in::fragment(&mut cx, packet, parsed, key, hit.as_ref()) {
                fragment_in::End::Now(verdict) => verdict,
                fragment_in::End::Waits(ticket) => {
                    waiting.push((*at, ticket));
                    continue;
                }
            },
        };
    }
    if !waiting.is_empty() {
        keep_back(&mut cx, packets, verdicts, waiting);
        // Their places do not hold any more.
        pending.clear();
    }
}

/// Takes the packets that wait out of the burst; the others stay in order, each with its verdict.
#[cold]
fn keep_back(
    cx: &mut Context<'_>,
    packets: &mut PacketVec,
    verdicts: &mut [Verdict],
    waiting: &mut ArrayVec<(u8, Ticket), BURST>,
) {
    let all = std::mem::take(packets);
    let mut waiting = waiting.drain(..).peekable();
    for (at, mut packet) in all.into_iter().enumerate() {
        let mut verdict = verdicts.get(at).copied();
        if let Some((_, ticket)) = waiting.next_if(|(place, _)| usize::from(*place) == at) {
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

#[cfg(test)]
mod tests {
    use heddle_flow::Config;
    use heddle_port::SharedPool;
    use heddle_wire::testing::Packet as Build;
    use heddle_wire::{MacAddr, Proto};

    use super::*;
    use crate::StageConfig;
    use crate::fuzzing::cluster::{PARTIES, tables};

    /// Datagrams of three fragments, the first one last, and some without a first: what is held, released and given up.
    #[test]
    fn fragments_cost_no_allocation() {
        let shared = SharedPool::heap(256, 4096);
        let mut pool = WorkerPool::new(0, shared.clone());
        let snapshot = tables(1).build().0;
        let flows = FlowTable::anonymous(&Config::default());
        let (mut stages, mut batch) = (Stages::new(StageConfig::default()), Batch::new());
        let [_, a, b] = &PARTIES;
        let ingress = Ingress {
            port: a.port,
            role: a.role(),
        };
        let base = Build::new(a.mac, MacAddr::GATEWAY, a.ip(true), b.ip(true));
        let whole = base.udp(1000, 53, &[7; 2992]);
        let cut = |id, at: usize, more| {
            let fragment = base.clone().identification(id).fragment(at as u16, more);
            fragment.raw(Proto::UDP, &whole[34 + at..34 + at + 1000])
        };
        let mut frames: Vec<Vec<u8>> = vec![cut(1, 1000, true), cut(1, 2000, false), cut(1, 0, true)];
        frames.extend((2..20).map(|id| cut(id, 1000, true)));
        let (mut now, mut forwarded, mut given_up) = (Millis(1000), 0, 0);
        let mut round = || {
            now = now.plus(600);
            stages.begin_turn(now);
            for frame in &frames {
                batch.packets_mut().extend(pool.packet(frame));
            }
            loop {
                let tables = Tables {
                    snapshot: &snapshot,
                    flows: &flows,
                };
                process(&mut stages, &mut batch, ingress, tables, &mut pool, now);
                for (packet, verdict) in batch.drain() {
                    forwarded += usize::from(matches!(verdict, Verdict::Forward(_)));
                    pool.free_packet(packet);
                }
                while let Some((packet, ..)) = stages.give_up() {
                    pool.free_packet(packet);
                    given_up += 1;
                }
                if stages.release(&mut batch).is_none() {
                    break;
                }
            }
        };
        round();
        let allocations = allocation_counter::measure(|| (0..50).for_each(|_| round())).count_total;
        assert_eq!((allocations, forwarded), (0, 3 * 51));
        assert!(given_up > 18 * 20, "{given_up} were given up");
        stages.close(a.port);
        while let Some((packet, ..)) = stages.give_up() {
            pool.free_packet(packet);
        }
        drop(pool);
        assert_eq!(shared.store().outstanding(), 0);
    }
}
