//! Accounting of packets that end at a worker: the outcome of a packet that leaves, and the records of dropped packets.
//!
//! Both the dispatch and the ports' queues end packets, so this module lies below the two.

use heddle_port::{Packet, PortId, WorkerPool};
use heddle_wire::{Parsed, parse};

use crate::counters::WorkerCounters;
use crate::decide::Denial;
use crate::drops::Dropped;
use crate::reason::AnswerKind;

/// The outcome that is counted for a packet when it has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Forwarded,
    /// A fragment other than the first.
    Fragment,
    Answered(AnswerKind),
}

impl Outcome {
    /// Returns the outcome of a forwarded packet. `later_fragment` is true for a fragment other than the first.
    pub(super) const fn of_forwarded(later_fragment: bool) -> Self {
        if later_fragment {
            Self::Fragment
        } else {
            Self::Forwarded
        }
    }
}

/// Drops a packet whose parsed headers are not at hand, and counts it at the port where it came in. `later_fragment` is true for
/// a fragment of a packet that its first fragment counts for.
#[cold]
pub(super) fn discard(
    packet: Packet,
    ingress: PortId,
    later_fragment: bool,
    denial: Denial,
    pool: &mut WorkerPool,
    counters: &WorkerCounters,
) {
    if later_fragment {
        if let Some(c) = counters.port(ingress) {
            c.lose_fragment();
        }
    } else {
        let parsed = parse(packet.bytes(pool.store()), packet.len() as usize);
        record_drop(&packet, parsed.ok().as_ref(), ingress, denial, counters);
    }
    pool.free_packet(packet);
}

/// Counts and records a drop.
#[inline]
pub(super) fn record_drop(
    packet: &Packet,
    parsed: Option<&Parsed>,
    ingress: PortId,
    denial: Denial,
    counters: &WorkerCounters,
) {
    counters.drop_packet(&Dropped {
        reason: denial.reason,
        rule: denial.rule,
        pod: denial.pod,
        ingress,
        len: packet.len(),
        packet: parsed.and_then(Dropped::of),
    });
}
