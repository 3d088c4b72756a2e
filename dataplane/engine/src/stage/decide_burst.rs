//! Decides at once the connections that the packets of a burst open, before the first of them is opened.

use arrayvec::ArrayVec;
use heddle_flow::{FlowKey, Hit};
use heddle_port::BURST;

use super::new_flow;
use crate::batch::{Kind, Pending};
use crate::context::Context;
use crate::decide::{Decision, NewConnection, Query, Target, decide_all};

/// What becomes of the connections that packets open, by the packets' places among those that wait for a flow; empty until
/// one of them has none.
pub(crate) type BurstDecisions = ArrayVec<Option<Decision>, BURST>;

/// Decides for packets without a flow, from the one at `first` on, as far as that does not depend on what the packets before
/// them leave behind.
#[cold]
pub(crate) fn decide_burst(
    cx: &mut Context<'_>,
    first: usize,
    pending: &[Pending],
    keys: &[FlowKey],
    hits: &[Option<Hit>],
    decided: &mut BurstDecisions,
) {
    let (mut places, mut connections) = (
        ArrayVec::<usize, BURST>::new(),
        ArrayVec::<NewConnection<'_>, BURST>::new(),
    );
    for (place, ((waiting, key), hit)) in pending.iter().zip(keys).zip(hits).enumerate() {
        decided.push(None);
        if place >= first && hit.is_none() && waiting.kind == Kind::Whole && new_flow::opens(&waiting.parsed) {
            places.push(place);
            connections.push(NewConnection {
                query: Query::from(key),
                selector: cx.selector(),
            });
        }
    }
    // One alone is decided whatever it depends on. So it has to wait for the packets between, which may be its client's.
    if matches!(*places, [only] if only != first) {
        return;
    }
    let flows = cx.flows;
    // The place of the answers is the one that nobody has asked for yet.
    let foresee = |query: &Query, target: &Target| flows.prefetch(&target.answers(&query.tuple), query.proto);
    decide_all(cx.snapshot, &connections, foresee, |at, decision| {
        decided[places[at]] = Some(decision);
    });
}
