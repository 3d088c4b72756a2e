//! The way of a burst through the stages: packets and tables only, no ring, no socket, no clock.
//!
//! parse and classify -> look up all flows at once -> for each packet: replay its flow's rewrite, or take the slow path.

use std::sync::Arc;

use heddle_flow::{FlowTable, Millis};
use heddle_port::{FrameStore, WorkerPool};
use heddle_tables::Snapshot;
use heddle_wire::{parse, simd};

use crate::batch::{Batch, Pending};
use crate::context::{Context, Ingress, Stages};
use crate::reason::DropReason;
use crate::stage::{classify, resolve};
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
        let (key, quotes) = match classify::classify(&mut cx, packet, parsed) {
            classify::Class::Flow(key) => (key, false),
            classify::Class::Quote(key) => (key, true),
            classify::Class::Done(done) => {
                *verdict = done;
                continue;
            }
        };
        pending.push(Pending {
            at: at as u8,
            parsed: *parsed,
            quotes,
        });
        keys.push(key);
    }
    cx.flows.lookup(keys, now, hits);
    for ((waiting, key), hit) in pending.iter().zip(keys.iter()).zip(hits.iter()) {
        let at = usize::from(waiting.at);
        if let (Some(packet), Some(verdict)) = (packets.get_mut(at), verdicts.get_mut(at)) {
            *verdict = resolve::resolve(&mut cx, packet, waiting, key, hit.as_ref());
        }
    }
}
