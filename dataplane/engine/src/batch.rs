//! A burst of packets and what the stages learn about them, in arrays side by side.

use arrayvec::ArrayVec;
use heddle_flow::{FlowKey, Hit};
use heddle_port::{BURST, Packet, PacketVec};
use heddle_wire::Parsed;

use crate::reason::DropReason;
use crate::reassembly::Ticket;
use crate::stage::decide_burst::BurstDecisions;
use crate::verdict::Verdict;

/// A packet that waits for its flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// Its place in the burst.
    pub(crate) at: u8,
    /// What the parser said.
    pub(crate) parsed: Parsed,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a packet that waits for its flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A whole packet of the flow.
    Whole,
    /// A fragment: a first one, or one whose key says nothing.
    Fragment,
    /// An ICMP error: its key is that of the answers to the packet that it quotes.
    Quote,
}

/// What the parser said of the packets of a burst that waited for their flows.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a>(&'a [Pending]);

impl Seen<'_> {
    /// Of the packet at that place, if it was one of them.
    pub(crate) fn parsed(&self, at: usize) -> Option<&Parsed> {
        let place = self
            .0
            .binary_search_by_key(&at, |waiting| usize::from(waiting.at))
            .ok()?;
        self.0.get(place).map(|waiting| &waiting.parsed)
    }
}

/// A burst. Made once a worker and filled again and again: it never allocates.
#[derive(Debug)]
pub struct Batch {
    /// What came in, in order.
    pub(crate) packets: PacketVec,
    /// How each packet ends.
    pub(crate) verdicts: [Verdict; BURST],
    /// Packets that a flow has to answer for, ...
    pub(crate) pending: ArrayVec<Pending, BURST>,
    /// ... their keys ...
    pub(crate) keys: ArrayVec<FlowKey, BURST>,
    /// ... and what the flow table had for each.
    pub(crate) hits: [Option<Hit>; BURST],
    /// What becomes of connections that they open, where that was decided for many at once.
    pub(crate) decided: BurstDecisions,
    /// Fragments that wait for their first, by their place in the burst, in order.
    pub(crate) waiting: ArrayVec<(u8, Ticket), BURST>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty burst.
    #[must_use]
    pub fn new() -> Self {
        Self {
            packets: PacketVec::new(),
            verdicts: [Verdict::drop(DropReason::NoVerdict); BURST],
            pending: ArrayVec::new(),
            keys: ArrayVec::new(),
            hits: [None; BURST],
            decided: ArrayVec::new(),
            waiting: ArrayVec::new(),
        }
    }

    /// Where a port receives into.
    pub fn packets_mut(&mut self) -> &mut PacketVec {
        &mut self.packets
    }

    /// The packets.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// The verdict on each packet, in their order; right after [`process`](crate::process).
    #[must_use]
    pub fn verdicts(&self) -> &[Verdict] {
        self.verdicts.get(..self.packets.len()).unwrap_or_default()
    }

    /// Takes all packets out, each with its verdict.
    pub fn drain(&mut self) -> impl Iterator<Item = (Packet, Verdict)> + '_ {
        self.packets.drain(..).zip(self.verdicts)
    }

    /// The same, beside what is known of packets that waited for their flows.
    pub(crate) fn drain_seen(&mut self) -> (impl Iterator<Item = (Packet, Verdict)> + '_, Seen<'_>) {
        let Self {
            packets,
            verdicts,
            pending,
            ..
        } = self;
        (packets.drain(..).zip(*verdicts), Seen(pending))
    }

    /// Forgets what was learned about the burst before.
    pub(crate) fn begin(&mut self) {
        self.pending.clear();
        self.keys.clear();
        self.decided.clear();
        self.waiting.clear();
        self.verdicts = [Verdict::drop(DropReason::NoVerdict); BURST];
    }
}
