//! Decides the connections that a burst opens, all at once, before the first of them is inserted.

use arrayvec::ArrayVec;
use heddle_flow::{FlowKey, Hit};
use heddle_port::BURST;

use super::new_flow;
use crate::batch::{BurstDecisions, Kind, Pending};
use crate::context::Context;
use crate::decide::{NewConnection, Query, Target, decide_batch};

/// Decides for the packets without a flow from index `first` on, as far as a decision does not depend on what the packets
/// before it leave behind.
#[cold]
pub(crate) fn decide_burst(
    cx: &mut Context<'_>,
    first: usize,
    pending: &[Pending],
    keys: &[FlowKey],
    hits: &[Option<Hit>],
    decisions: &mut BurstDecisions,
) {
    let (mut places, mut connections) = (
        ArrayVec::<usize, BURST>::new(),
        ArrayVec::<NewConnection<'_>, BURST>::new(),
    );
    for (place, ((waiting, key), hit)) in pending.iter().zip(keys).zip(hits).enumerate() {
        decisions.push(None);
        if place >= first && hit.is_none() && waiting.kind == Kind::Whole && new_flow::opens(&waiting.parsed) {
            places.push(place);
            connections.push(NewConnection {
                query: Query::from(key),
                selector: cx.selector(),
            });
        }
    }
    // A single connection is decided even if its client goes back to an earlier backend, which packets before it in the burst
    // may still change. So the decision waits until its packet is next.
    if matches!(*places, [only] if only != first) {
        return;
    }
    let flows = cx.flows;
    // The replies' bucket is the one memory access of an insert that no lookup has fetched yet.
    let prefetch = |query: &Query, target: &Target| flows.prefetch(&target.reply_tuple(&query.tuple), query.proto);
    decide_batch(cx.snapshot, &connections, prefetch, |at, decision| {
        decisions[places[at]] = Some(decision);
    });
}
