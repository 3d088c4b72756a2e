//! The newest packets that a worker dropped, one record for each, packed into the words of a [`Ring`].

use heddle_flow::Millis;
use heddle_port::PortId;
use heddle_tables::{EndpointId, RuleId};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Parsed, Proto};

use super::ring::Ring;
use crate::reason::DropReason;

/// Words of a record. With its sequence number a record fills a cache line of 64 bytes.
const WORDS: usize = 7;
/// Bits of the time in the first word. The packet's length is in the bits above.
const TIME_BITS: u32 = 40;
const LEN_BITS: u32 = 64 - TIME_BITS;

/// A dropped packet, as the worker records it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dropped {
    pub(crate) reason: DropReason,
    pub(crate) rule: RuleId,
    pub(crate) pod: EndpointId,
    pub(crate) ingress: PortId,
    pub(crate) len: u32,
    pub(crate) packet: Option<(Tuple, Proto)>,
}

impl Dropped {
    /// Returns the addresses, ports and protocol of a parsed packet; `None` for ARP.
    #[inline]
    pub(crate) fn of(parsed: &Parsed) -> Option<(Tuple, Proto)> {
        (parsed.l3 != heddle_wire::L3::Arp).then(|| (parsed.tuple(), parsed.proto))
    }
}

/// A packet that was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropRecord {
    /// The record's number among its worker's, from 0.
    pub number: u64,
    /// The time at which the turn began.
    pub at: Millis,
    /// The reason.
    pub reason: DropReason,
    /// The deciding rule, if policy denied the packet.
    pub rule: RuleId,
    /// The pod whose policy denied the packet; [`EndpointId::HOST`] if no policy did.
    pub pod: EndpointId,
    /// The port where the packet came in.
    pub ingress: PortId,
    /// The packet's length in octets, with the Ethernet header.
    pub len: u32,
    /// The packet's addresses, ports and protocol as it came in. A packet that was dropped after its translation, because a queue
    /// or a ring was full, has the translated ones. `None` for ARP and for a packet that could not be parsed.
    pub packet: Option<(Tuple, Proto)>,
}

/// The result of [`DropRing::read`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reading {
    /// The number of the record to continue with.
    pub next: u64,
    /// Records that were overwritten before they were read.
    pub overwritten: u64,
}

/// The newest drops of one worker.
#[derive(Debug)]
pub struct DropRing(Ring<WORDS>);

impl DropRing {
    /// Makes a ring for at least `records` records.
    #[must_use]
    pub fn new(records: usize) -> Self {
        Self(Ring::new(records))
    }

    /// Returns the number of records that the ring has room for.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.0.len()
    }

    /// Records a drop. Only the owning worker calls it.
    #[inline]
    pub(crate) fn note(&self, dropped: &Dropped, at: Millis) {
        let (tuple, proto, known) = match dropped.packet {
            Some((tuple, proto)) => (tuple, proto, 1),
            None => (NOTHING, Proto(0), 0),
        };
        let ([s0, s1], [d0, d1]) = (halves(tuple.src), halves(tuple.dst));
        let len = u64::from(dropped.len).min((1 << LEN_BITS) - 1);
        self.0.write([
            at.0 & ((1 << TIME_BITS) - 1) | len << TIME_BITS,
            s0,
            s1,
            d0,
            d1,
            u64::from(tuple.sport)
                | u64::from(tuple.dport) << 16
                | u64::from(proto.0) << 32
                | (dropped.reason as u64) << 40
                | known << 48,
            u64::from(dropped.rule.0) | u64::from(dropped.ingress.0) << 32 | u64::from(dropped.pod.0) << 48,
        ]);
    }

    /// Calls `see` with each record from the number `from` on that was not overwritten, oldest first.
    pub fn read(&self, from: u64, mut see: impl FnMut(DropRecord)) -> Reading {
        let next = self.0.written();
        let from = from.min(next);
        let oldest = next.saturating_sub(self.0.len()).max(from);
        let mut overwritten = oldest - from;
        for number in oldest..next {
            match self.0.read(number).and_then(|words| unpacked(number, words)) {
                Some(record) => see(record),
                None => overwritten += 1,
            }
        }
        Reading { next, overwritten }
    }
}

/// The tuple of a record without addresses.
const NOTHING: Tuple = Tuple {
    src: Ip::UNSPECIFIED,
    dst: Ip::UNSPECIFIED,
    sport: 0,
    dport: 0,
};

#[inline]
fn halves(ip: Ip) -> [u64; 2] {
    let v = u128::from_ne_bytes(ip.octets());
    [v as u64, (v >> 64) as u64]
}

fn address(low: u64, high: u64) -> Ip {
    Ip::from_v6((u128::from(low) | u128::from(high) << 64).to_ne_bytes())
}

fn unpacked(number: u64, [when, s0, s1, d0, d1, what, who]: [u64; WORDS]) -> Option<DropRecord> {
    let tuple = Tuple {
        src: address(s0, s1),
        dst: address(d0, d1),
        sport: what as u16,
        dport: (what >> 16) as u16,
    };
    Some(DropRecord {
        number,
        at: Millis(when & ((1 << TIME_BITS) - 1)),
        reason: *DropReason::ALL.get(usize::from((what >> 40) as u8))?,
        rule: RuleId(who as u32),
        pod: EndpointId((who >> 48) as u16),
        ingress: PortId((who >> 32) as u16),
        len: (when >> TIME_BITS) as u32,
        packet: (what >> 48 & 1 == 1).then_some((tuple, Proto((what >> 32) as u8))),
    })
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn dropped(n: u8) -> Dropped {
        Dropped {
            reason: *DropReason::ALL.last().unwrap(),
            rule: RuleId::MAX,
            pod: EndpointId(u16::MAX),
            ingress: PortId(u16::MAX - 1),
            len: 61_014,
            packet: Some((
                Tuple {
                    src: Ip::from_v4([10, 0, 0, n]),
                    dst: Ip::from_v6([n; 16]),
                    sport: 40_000,
                    dport: 65_535,
                },
                Proto::SCTP,
            )),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_noted() {
        let ring = DropRing::new(4);
        ring.note(&dropped(7), Millis(123_456_789_012));
        let mut bare = dropped(0);
        (bare.packet, bare.len) = (None, u32::MAX);
        ring.note(&bare, Millis(5));
        let mut seen = Vec::new();
        let reading = ring.read(0, |record| seen.push(record));
        assert_eq!(
            reading,
            Reading {
                next: 2,
                overwritten: 0
            }
        );
        let d = dropped(7);
        let expected = DropRecord {
            number: 0,
            at: Millis(123_456_789_012),
            reason: d.reason,
            rule: d.rule,
            pod: d.pod,
            ingress: d.ingress,
            len: d.len,
            packet: d.packet,
        };
        assert_eq!(seen[0], expected);
        assert_eq!(
            (seen[1].packet, seen[1].len, seen[1].number),
            (None, (1 << LEN_BITS) - 1, 1)
        );
    }

    #[test]
    fn a_reader_gets_the_number_of_missed_records() {
        let ring = DropRing::new(4);
        (0..3).for_each(|n| ring.note(&dropped(n), Millis(n.into())));
        let mut times = Vec::new();
        let mut read = |from: u64| {
            times.clear();
            let reading = ring.read(from, |record| times.push(record.at.0));
            (reading, times.clone())
        };
        let reading = |next, overwritten| Reading { next, overwritten };
        assert_eq!(read(0), (reading(3, 0), vec![0, 1, 2]));
        assert_eq!(read(3), (reading(3, 0), vec![]));
        (3..9).for_each(|n| ring.note(&dropped(n), Millis(n.into())));
        assert_eq!(read(3), (reading(9, 2), vec![5, 6, 7, 8]));
        assert_eq!(read(7), (reading(9, 0), vec![7, 8]));
        // A number from an earlier run of the agent.
        assert_eq!(read(1_000_000), (reading(9, 0), vec![]));
    }
}
