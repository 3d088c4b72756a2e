//! What the words of a record mean, to those who have loaded them; the record itself, and who may write it when, is
//! in [`crate::record`].

use heddle_wire::Proto;
use heddle_wire::checksum::Delta;
use heddle_wire::rewrite::{Deltas, Tuple};

use crate::hash::{ip_from_words, ip_words};
use crate::state::Life;
use crate::types::{Egress, FlowFlags, FlowKey, FlowView, Millis, Origin, Rewrite, StartNo};
use crate::{EndpointNo, Generation};

/// The word of a direction, after those of its addresses, that has ports and origin, ...
pub(crate) const PORTS: usize = 4;
/// ... and the one that has deltas and egress.
pub(crate) const LEAVING: usize = 5;

/// Bits of a time, below its incarnation.
pub(crate) const TIME_BITS: u32 = 40;
/// Bits of a count, below its incarnation.
pub(crate) const COUNT_BITS: u32 = 56;

/// Bits of the flags of one direction in the word of meta data.
pub(crate) const FLAG_BITS: u32 = 12;
const _: () = assert!(FlowFlags::all().bits() < 1 << FLAG_BITS);

/// The words that a view of one direction is made of.
pub(crate) struct Words {
    /// Ports and origin, deltas and egress.
    pub(crate) own: [u64; 2],
    /// Addresses and ports of the other direction.
    pub(crate) peer: [u64; 5],
    pub(crate) meta: u64,
    pub(crate) ends: u64,
    pub(crate) generations: u64,
}

impl Words {
    #[inline(always)]
    pub(crate) fn view(&self, direction: usize, life: Life, last_seen: Millis) -> Option<FlowView> {
        let second = direction & 1 != 0;
        let [ports, leaving] = self.own;
        let [a0, a1, a2, a3, peer_ports] = self.peer;
        // Two of sixteen and two of 32 bits, as the direction sees them.
        let ends = self.ends as u32;
        let ends = if second { ends.rotate_right(16) } else { ends };
        let generations = self.generations;
        let generations = if second {
            generations.rotate_right(32)
        } else {
            generations
        };
        Some(FlowView {
            rewrite: Rewrite {
                to: tuple([a0, a1, a2, a3], peer_ports).reversed(),
                deltas: Deltas {
                    l3: Delta::from_raw(leaving as u16),
                    l4: Delta::from_raw((leaving >> 16) as u16),
                },
            },
            origin: Origin::from_bits((ports >> 32) as u32),
            egress: Egress::try_from_bits((leaving >> 32) as u32)?,
            endpoints: [EndpointNo(ends as u16), EndpointNo((ends >> 16) as u16)],
            generations: [Generation(generations as u32), Generation((generations >> 32) as u32)],
            start: StartNo((self.meta >> 32) as u32),
            mss_clamp: (self.ends >> if second { 48 } else { 32 }) as u16,
            flags: FlowFlags::from_bits_truncate((self.meta >> if second { FLAG_BITS } else { 0 }) as u16),
            state: life.state(),
            last_seen,
        })
    }
}

/// A tuple, or one and its origin, as the words that a record has of it: two are equal exactly if their words are.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) addresses: [u64; 4],
    pub(crate) ports: u64,
    /// Which bits of `ports` count: with or without the origin.
    pub(crate) mask: u64,
    pub(crate) proto: u64,
}

impl Wanted {
    /// With the origin.
    #[inline]
    pub(crate) fn key(key: &FlowKey) -> Self {
        Self {
            ports: port_word(&key.tuple, key.origin),
            mask: u64::MAX,
            ..Self::tuple(&key.tuple, key.proto)
        }
    }

    /// Whatever the origin.
    #[inline]
    pub(crate) fn tuple(t: &Tuple, proto: Proto) -> Self {
        let ([s0, s1], [d0, d1]) = (ip_words(t.src), ip_words(t.dst));
        Self {
            addresses: [s0, s1, d0, d1],
            ports: port_word(t, Origin::HOST),
            mask: u64::from(u32::MAX),
            proto: u64::from(proto.0),
        }
    }
}

const fn port_word(t: &Tuple, origin: Origin) -> u64 {
    t.sport as u64 | (t.dport as u64) << 16 | (origin.to_bits() as u64) << 32
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

/// A time, marked as of one tenant.
#[inline]
pub(crate) const fn time_word(incarnation: u32, time: Millis) -> u64 {
    (incarnation as u64) << TIME_BITS | time.0 & ((1 << TIME_BITS) - 1)
}

/// A count, marked as of one tenant.
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

pub(crate) const fn leaving(l3: u16, l4: u16, egress: Egress) -> u64 {
    l3 as u64 | (l4 as u64) << 16 | (egress.to_bits() as u64) << 32
}

pub(crate) const fn meta(start: StartNo, proto: Proto, flags: [FlowFlags; 2]) -> u64 {
    (start.0 as u64) << 32
        | (proto.0 as u64) << (2 * FLAG_BITS)
        | (flags[1].bits() as u64) << FLAG_BITS
        | flags[0].bits() as u64
}
