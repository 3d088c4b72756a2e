//! A burst of packets and the results of the stages for each of them, in parallel arrays.

use arrayvec::ArrayVec;
use heddle_flow::{FlowKey, Hit, Origin};
use heddle_port::{BURST, Packet, PacketVec};
use heddle_wire::Parsed;

use crate::ingress::Ingress;
use crate::reason::DropReason;
use crate::reassembly::{FragmentConfig, Ticket};
use crate::verdict::Verdict;

/// A packet that waits for the lookup of its flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// Its index in the burst.
    pub(crate) at: u8,
    /// Its parsed headers.
    pub(crate) parsed: Parsed,
    /// Its kind.
    pub(crate) kind: Kind,
}

/// The kind of a packet that has a flow key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A whole packet of the flow.
    Whole,
    /// The first fragment of a datagram: handled as a whole packet, and remembered for the later ones.
    FirstFragment,
    /// A later fragment, whose own key has no ports.
    LaterFragment,
    /// An ICMP error. Its key is that of the replies to the packet that it quotes.
    IcmpError,
}

/// The parsed headers of a burst's packets that waited for their flows.
#[derive(Clone, Copy)]
pub(crate) struct ParsedPackets<'a>(&'a [Pending]);

impl ParsedPackets<'_> {
    /// No packets.
    pub(crate) const NONE: Self = Self(&[]);

    /// Returns the parsed headers of the packet at an index of the burst, if it waited for its flow.
    pub(crate) fn get(&self, at: usize) -> Option<&Parsed> {
        let place = self
            .0
            .binary_search_by_key(&at, |waiting| usize::from(waiting.at))
            .ok()?;
        self.0.get(place).map(|waiting| &waiting.parsed)
    }
}

/// A packet that came in with an earlier burst, was held, and has its verdict now.
#[derive(Debug)]
pub(crate) struct Reentered {
    pub(crate) packet: Packet,
    pub(crate) ingress: Ingress,
    pub(crate) verdict: Verdict,
}

/// A burst. A worker makes one and fills it for each burst, so that none allocates.
#[derive(Debug)]
pub struct Batch {
    /// The received packets, in order.
    pub(crate) packets: PacketVec,
    /// The verdict on each packet.
    pub(crate) verdicts: [Verdict; BURST],
    /// The packets that have a flow key, in order.
    pub(crate) pending: ArrayVec<Pending, BURST>,
    /// The keys of `pending`.
    pub(crate) keys: ArrayVec<FlowKey, BURST>,
    /// The flow table's entries for `keys`.
    pub(crate) hits: [Option<Hit>; BURST],
    /// The later fragments that must wait for their first one, by their index in the burst, in order, with their origins.
    pub(crate) waiting: ArrayVec<(u8, Ticket, Origin), BURST>,
    /// Held fragments that got their verdicts beside the burst.
    pub(crate) reentered: Vec<Reentered>,
}

impl Batch {
    /// Makes an empty burst with room for every fragment that stages of this configuration hold.
    #[must_use]
    pub fn new(fragments: &FragmentConfig) -> Self {
        Self {
            packets: PacketVec::new(),
            verdicts: [Verdict::drop(DropReason::NoVerdict); BURST],
            pending: ArrayVec::new(),
            keys: ArrayVec::new(),
            hits: [None; BURST],
            waiting: ArrayVec::new(),
            reentered: Vec::with_capacity(usize::from(fragments.held_frames) + BURST),
        }
    }

    /// Returns the list that a port receives into.
    pub fn packets_mut(&mut self) -> &mut PacketVec {
        &mut self.packets
    }

    /// Returns the packets of the burst.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Returns the verdict on each packet of the burst, in their order; right after [`process`](crate::process()).
    #[must_use]
    pub fn verdicts(&self) -> &[Verdict] {
        self.verdicts.get(..self.packets.len()).unwrap_or_default()
    }

    /// Removes all packets, each with its verdict: first the burst, then the held fragments judged in the same call.
    pub fn drain(&mut self) -> impl Iterator<Item = (Packet, Verdict)> + '_ {
        let held = self.reentered.drain(..).map(|held| (held.packet, held.verdict));
        self.packets.drain(..).zip(self.verdicts).chain(held)
    }

    /// Removes the burst's packets with their verdicts, and returns the parsed headers of those that have a flow key.
    pub(crate) fn drain_burst(&mut self) -> (impl Iterator<Item = (Packet, Verdict)> + '_, ParsedPackets<'_>) {
        let Self {
            packets,
            verdicts,
            pending,
            ..
        } = self;
        (packets.drain(..).zip(*verdicts), ParsedPackets(pending))
    }

    /// Adds a held fragment that has its verdict.
    #[cold]
    pub(crate) fn push_reentered(&mut self, packet: Packet, ingress: Ingress, verdict: Verdict) {
        self.reentered.push(Reentered {
            packet,
            ingress,
            verdict,
        });
    }

    /// Clears the results for the previous burst.
    pub(crate) fn begin(&mut self) {
        self.pending.clear();
        self.keys.clear();
        self.waiting.clear();
        self.verdicts = [Verdict::drop(DropReason::NoVerdict); BURST];
    }
}
