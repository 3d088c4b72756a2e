//! The encoding of a record's words. [`crate::record`] contains the record and the rules for writing it.

use heddle_ids::{EndpointId, Epoch, Generation};
use heddle_wire::checksum::Delta;
use heddle_wire::rewrite::{Deltas, Tuple};
use heddle_wire::{Ip, Proto};

use crate::hash::{ip_from_words, ip_words};
use crate::state::ConnState;
use crate::types::{Egress, FlowFlags, FlowKey, FlowView, Millis, Origin, Rewrite};

/// The index, among a direction's words, of the one with ports, origin and protocol.
pub(crate) const PORTS: usize = 4;
/// The index of the word with checksum deltas and egress.
pub(crate) const LEAVING: usize = 5;

/// Bits of a time, below its incarnation.
pub(crate) const TIME_BITS: u32 = 40;
/// Bits of a count, below its incarnation.
pub(crate) const COUNT_BITS: u32 = 56;

/// The position of the protocol in the word of ports, above the origin.
const PROTO_SHIFT: u32 = 56;

/// The words that a view of one direction is made of.
pub(crate) struct DirectionWords {
    /// Ports and origin, deltas and egress.
    pub(crate) own: [u64; 2],
    /// Addresses of the other direction, and its ports.
    pub(crate) peer: [[u8; 16]; 2],
    pub(crate) peer_ports: u64,
    pub(crate) meta: u64,
    pub(crate) ends: u64,
    pub(crate) generations: u64,
}

impl DirectionWords {
    /// Decodes the words. Returns `None` if this crate did not write them.
    pub(crate) fn checked_view(&self, direction: usize, conn: ConnState, last_seen: Millis) -> Option<FlowView> {
        Egress::try_from_bits((self.own[1] >> 32) as u32)?;
        Some(self.view(direction, conn, last_seen))
    }

    /// Decodes words that this crate wrote. Branch-free, because the direction is unpredictable.
    #[inline(always)]
    pub(crate) fn view(&self, direction: usize, conn: ConnState, last_seen: Millis) -> FlowView {
        let second = 16 * (direction & 1) as u32;
        let [ports, leaving] = self.own;
        let [src, dst] = self.peer.map(Ip::from_v6);
        // Two values of 16 and two of 32 bits, swapped for direction 1.
        let ends = (self.ends as u32).rotate_right(second);
        let generations = self.generations.rotate_right(2 * second);
        FlowView {
            rewrite: Rewrite {
                to: Tuple {
                    src: dst,
                    dst: src,
                    sport: (self.peer_ports >> 16) as u16,
                    dport: self.peer_ports as u16,
                },
                deltas: Deltas {
                    l3: Delta::from_raw(leaving as u16),
                    l4: Delta::from_raw((leaving >> 16) as u16),
                },
            },
            origin: origin_of(ports),
            egress: Egress::from_bits((leaving >> 32) as u32),
            endpoints: [EndpointId(ends as u16), EndpointId((ends >> 16) as u16)],
            generations: [Generation(generations as u32), Generation((generations >> 32) as u32)],
            epoch: Epoch((self.meta >> 32) as u32),
            mss_clamp: ((self.ends >> 32) as u32 >> second) as u16,
            flags: FlowFlags::from_bits_truncate((self.meta as u32 >> second) as u16),
            state: conn.state(),
            last_seen,
        }
    }
}

/// A tuple with or without its origin, in the encoding of a record: two keys are equal exactly if their words are.
#[derive(Clone, Copy)]
pub(crate) struct KeyWords {
    pub(crate) addresses: [u64; 4],
    pub(crate) ports: u64,
    /// The bits of `ports` that are compared: with or without the origin.
    pub(crate) mask: u64,
}

impl KeyWords {
    /// Encodes a key with its origin.
    #[inline]
    pub(crate) fn key(key: &FlowKey) -> Self {
        let (t, ([s0, s1], [d0, d1])) = (&key.tuple, (ip_words(key.tuple.src), ip_words(key.tuple.dst)));
        Self {
            addresses: [s0, s1, d0, d1],
            ports: port_word(t, key.proto, key.origin, key.echo_reply),
            mask: u64::MAX,
        }
    }

    /// Encodes a tuple with any origin.
    #[inline]
    pub(crate) fn of_any_origin(key: &FlowKey) -> Self {
        Self {
            mask: !ORIGIN,
            ..Self::key(key)
        }
    }
}

/// The bits of the origin in the word of ports.
const ORIGIN: u64 = 0x3f_ffff << 32;
/// The bit of an echo reply.
const ECHO_REPLY: u64 = 1 << 55;

#[inline]
pub(crate) const fn port_word(t: &Tuple, proto: Proto, origin: Origin, echo_reply: bool) -> u64 {
    t.sport as u64
        | (t.dport as u64) << 16
        | (origin.to_bits() as u64) << 32
        | (echo_reply as u64) << 55
        | (proto.0 as u64) << PROTO_SHIFT
}

/// Returns the word of ports with another origin.
pub(crate) const fn with_origin(ports: u64, origin: Origin) -> u64 {
    ports & !ORIGIN | (origin.to_bits() as u64) << 32
}

/// Returns the origin in a word of ports.
#[inline]
pub(crate) const fn origin_of(ports: u64) -> Origin {
    Origin::from_bits(((ports & ORIGIN) >> 32) as u32)
}

/// Returns true for the word of ports of an echo reply.
pub(crate) const fn is_echo_reply(ports: u64) -> bool {
    ports & ECHO_REPLY != 0
}

/// Returns the protocol in a word of ports.
#[inline]
pub(crate) const fn proto_of(ports: u64) -> Proto {
    Proto((ports >> PROTO_SHIFT) as u8)
}

#[inline]
pub(crate) fn tuple([s0, s1, d0, d1]: [u64; 4], ports: u64) -> Tuple {
    Tuple {
        src: ip_from_words([s0, s1]),
        dst: ip_from_words([d0, d1]),
        sport: ports as u16,
        dport: (ports >> 16) as u16,
    }
}

/// Returns a time, tagged with the incarnation of its connection.
#[inline]
pub(crate) const fn time_word(incarnation: u32, time: Millis) -> u64 {
    (incarnation as u64) << TIME_BITS | time.0 & ((1 << TIME_BITS) - 1)
}

/// Returns a count, tagged with the incarnation of its connection.
#[inline]
pub(crate) const fn count_word(incarnation: u32, count: u64) -> u64 {
    (incarnation as u64) << COUNT_BITS | count & ((1 << COUNT_BITS) - 1)
}

pub(crate) const fn pair32(a: u32, b: u32) -> u64 {
    a as u64 | (b as u64) << 32
}

pub(crate) const fn quad16(a: u16, b: u16, c: u16, d: u16) -> u64 {
    a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48
}

/// Returns the word of the ends with a lower MSS for a direction; 0 is no limit.
pub(crate) fn with_lower_mss(ends: u64, direction: usize, announced: u16) -> u64 {
    let shift = 32 + 16 * (direction & 1);
    let lower = match (ends >> shift) as u16 {
        0 => announced,
        mss => mss.min(announced),
    };
    ends & !(0xffff << shift) | u64::from(lower) << shift
}

pub(crate) const fn leaving(l3: u16, l4: u16, egress: Egress) -> u64 {
    l3 as u64 | (l4 as u64) << 16 | (egress.to_bits() as u64) << 32
}

pub(crate) const fn meta(epoch: Epoch, flags: [FlowFlags; 2]) -> u64 {
    (epoch.0 as u64) << 32 | (flags[1].bits() as u64) << 16 | flags[0].bits() as u64
}
