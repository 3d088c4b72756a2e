//! One connection: three cache lines of atomic words, the first two under a sequence lock.
//!
//! | word  | contents |
//! |-------|----------|
//! | 0     | the sequence: odd while somebody writes words 1 to 15, 17 upwards of a free record, or the incarnation |
//! | 1, 2  | direction 0: source address |
//! | 3, 4  | direction 0: destination address |
//! | 5     | ports: 0 source, 0 destination, 1 source, 1 destination |
//! | 6     | origins of 0 and 1 |
//! | 7     | start number, protocol, flags of 0 and 1 |
//! | 8, 9  | direction 1: source address |
//! | 10, 11| direction 1: destination address |
//! | 12    | checksum deltas: 0 l3, 0 l4, 1 l3, 1 l4 |
//! | 13    | egress of 0 and 1 |
//! | 14    | endpoints of direction 0, MSS clamps of 0 and 1 |
//! | 15    | generations of these endpoints |
//! | 16    | incarnation and life |
//! | 17    | last seen |
//! | 18, 19| packets of 0 and 1 |
//! | 20, 21| bytes of 0 and 1 |
//! | 22    | link while free |
//! | 23    | inserted at |
//!
//! A direction's rewrite is the other one's key, reversed, so the addresses stand here once.
//!
//! # Ordering
//!
//! That of [`crate::seqlock`] for what the sequence guards. The last line is written by hits without the sequence. Its life
//! word carries the incarnation, which changes only under the sequence: so a reader gets the incarnation that goes with the
//! words, and a change of state by a late worker fails if the record has another tenant by now. A count or the time of the
//! last packet may in that case be added to the new tenant's; that harms nothing.

use heddle_wire::checksum::Delta;
use heddle_wire::rewrite::{Deltas, Tuple};
use heddle_wire::{Proto, TcpFlags};

use crate::hash::{ip_from_words, ip_words};
use crate::layout::RECORD_LINES;
use crate::memory::{LINE_WORDS, Line};
use crate::seqlock::{Odd, Sequence};
use crate::state::Life;
use crate::sync::{AtomicU64, Ordering};
use crate::types::{Egress, FlowFlags, FlowView, Millis, NewFlow, Origin, Rewrite, StartNo};
use crate::{EndpointNo, Generation};

const SEQUENCE: usize = 0;
const PORTS: usize = 5;
const ORIGINS: usize = 6;
const META: usize = 7;
const DELTAS: usize = 12;
const EGRESS: usize = 13;
const ENDS: usize = 14;
const GENERATIONS: usize = 15;
const LIFE: usize = 16;
const LAST_SEEN: usize = 17;
const PACKETS: usize = 18;
const BYTES: usize = 20;
const LINK: usize = 22;
const INSERTED: usize = 23;

/// Words under the sequence.
const GUARDED: usize = 16;

/// Where the addresses of each direction begin.
const ADDRESSES: [usize; 2] = [1, 8];

/// Bits of the flags of one direction in the word of meta data.
const FLAG_BITS: u32 = 12;
const _: () = assert!(FlowFlags::all().bits() < 1 << FLAG_BITS);

/// What a route of a connection consists of; see `FlowTable::reroute`. Index 0 is the direction of the slot that is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where each direction's packets go.
    pub egress: [Egress; 2],
    /// The endpoints that the named direction comes from and goes to.
    pub endpoints: [EndpointNo; 2],
    /// Their generations.
    pub generations: [Generation; 2],
    /// The MSS clamp of each direction.
    pub mss_clamp: [u16; 2],
}

/// Packets and bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Their bytes, as the caller counts them.
    pub bytes: u64,
}

/// A consistent copy of what the sequence guards, with the life and time of that moment.
#[derive(Clone, Copy)]
pub(crate) struct Contents {
    words: [u64; GUARDED],
    pub(crate) incarnation: u32,
    pub(crate) life: Life,
    pub(crate) last_seen: Millis,
}

impl Contents {
    #[inline]
    pub(crate) fn tuple(&self, direction: usize) -> Tuple {
        let a = ADDRESSES[direction & 1];
        let w = &self.words;
        let ports = w[PORTS] >> ((direction & 1) * 32);
        Tuple {
            src: ip_from_words([w[a], w[a + 1]]),
            dst: ip_from_words([w[a + 2], w[a + 3]]),
            sport: ports as u16,
            dport: (ports >> 16) as u16,
        }
    }

    #[inline]
    pub(crate) const fn proto(&self) -> Proto {
        Proto((self.words[META] >> (2 * FLAG_BITS)) as u8)
    }

    /// Whether `direction` has this tuple and protocol.
    #[inline]
    pub(crate) fn is(&self, direction: usize, tuple: &Tuple, proto: Proto) -> bool {
        self.tuple(direction) == *tuple && self.proto() == proto
    }

    #[inline]
    pub(crate) const fn origin(&self, direction: usize) -> Origin {
        Origin::from_bits((self.words[ORIGINS] >> ((direction & 1) * 32)) as u32)
    }

    #[inline]
    pub(crate) const fn start(&self) -> StartNo {
        StartNo((self.words[META] >> 32) as u32)
    }

    #[inline]
    fn flags(&self, direction: usize) -> FlowFlags {
        FlowFlags::from_bits_truncate((self.words[META] >> ((direction & 1) as u32 * FLAG_BITS)) as u16)
    }

    #[inline]
    fn egress(&self, direction: usize) -> Option<Egress> {
        Egress::try_from_bits((self.words[EGRESS] >> ((direction & 1) * 32)) as u32)
    }

    #[inline]
    const fn endpoints(&self, direction: usize) -> [EndpointNo; 2] {
        let w = self.words[ENDS];
        let ends = [EndpointNo(w as u16), EndpointNo((w >> 16) as u16)];
        if direction & 1 == 0 { ends } else { [ends[1], ends[0]] }
    }

    /// The endpoint whose quota the connection uses: the opener's.
    pub(crate) const fn charged(&self) -> EndpointNo {
        self.endpoints(self.life.opener())[0]
    }

    #[inline]
    const fn generations(&self, direction: usize) -> [Generation; 2] {
        let w = self.words[GENERATIONS];
        let both = [Generation(w as u32), Generation((w >> 32) as u32)];
        if direction & 1 == 0 { both } else { [both[1], both[0]] }
    }

    /// The entry as `direction` sees it; `None` if the words are none that this crate wrote.
    #[inline]
    pub(crate) fn view(&self, direction: usize) -> Option<FlowView> {
        let d = direction & 1;
        let deltas = self.words[DELTAS] >> (d * 32);
        Some(FlowView {
            rewrite: Rewrite {
                to: self.tuple(d ^ 1).reversed(),
                deltas: Deltas {
                    l3: Delta::from_raw(deltas as u16),
                    l4: Delta::from_raw((deltas >> 16) as u16),
                },
            },
            origin: self.origin(d),
            egress: self.egress(d)?,
            endpoints: self.endpoints(d),
            generations: self.generations(d),
            start: self.start(),
            mss_clamp: (self.words[ENDS] >> (32 + d * 16)) as u16,
            flags: self.flags(d),
            state: self.life.state(),
            last_seen: self.last_seen,
        })
    }
}

const fn pair32(a: u32, b: u32) -> u64 {
    a as u64 | (b as u64) << 32
}

const fn quad16(a: u16, b: u16, c: u16, d: u16) -> u64 {
    a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48
}

const fn meta(start: StartNo, proto: Proto, flags: [FlowFlags; 2]) -> u64 {
    (start.0 as u64) << 32
        | (proto.0 as u64) << (2 * FLAG_BITS)
        | (flags[1].bits() as u64) << FLAG_BITS
        | flags[0].bits() as u64
}

/// The lines of one connection.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a>(pub(crate) &'a [Line; RECORD_LINES]);

/// The right to write a record; the sequence is odd while it lives.
pub(crate) struct Writing<'a> {
    record: Record<'a>,
    _odd: Odd<'a>,
}

impl<'a> Record<'a> {
    #[inline]
    fn word(&self, n: usize) -> &'a AtomicU64 {
        &self.0[n / LINE_WORDS].0[n % LINE_WORDS]
    }

    #[inline]
    fn sequence(&self) -> Sequence<'a> {
        Sequence(self.word(SEQUENCE))
    }

    /// Where the free list keeps its link.
    pub(crate) fn link(&self) -> &'a AtomicU64 {
        self.word(LINK)
    }

    /// The same, of the record that begins with `lines`.
    pub(crate) fn link_of(lines: &'a [Line]) -> &'a AtomicU64 {
        &lines[LINK / LINE_WORDS].0[LINK % LINE_WORDS]
    }

    /// A consistent copy. Waits for a writer, which never waits for anybody while it writes.
    #[inline]
    pub(crate) fn read(&self) -> Contents {
        self.sequence().read(|| {
            let mut words = [0; GUARDED];
            for (n, word) in words.iter_mut().enumerate().skip(1) {
                *word = self.word(n).load(Ordering::Relaxed);
            }
            let life = self.word(LIFE).load(Ordering::Relaxed);
            Contents {
                words,
                incarnation: (life >> 32) as u32,
                life: Life::from_bits(life as u32),
                last_seen: self.last_seen(),
            }
        })
    }

    /// Whether a writer was at it; for takeover.
    pub(crate) fn is_torn(&self) -> bool {
        self.sequence().is_odd()
    }

    /// Incarnation and life.
    #[inline]
    pub(crate) fn life(&self) -> (u32, Life) {
        let word = self.word(LIFE).load(Ordering::Relaxed);
        ((word >> 32) as u32, Life::from_bits(word as u32))
    }

    pub(crate) fn last_seen(&self) -> Millis {
        Millis(self.word(LAST_SEEN).load(Ordering::Relaxed))
    }

    pub(crate) fn inserted_at(&self) -> Millis {
        Millis(self.word(INSERTED).load(Ordering::Relaxed))
    }

    pub(crate) fn counters(&self, direction: usize) -> Counters {
        Counters {
            packets: self.word(PACKETS + (direction & 1)).load(Ordering::Relaxed),
            bytes: self.word(BYTES + (direction & 1)).load(Ordering::Relaxed),
        }
    }

    /// Locks the record against other writers and makes readers wait.
    pub(crate) fn write(self) -> Writing<'a> {
        Writing {
            record: self,
            _odd: self.sequence().write(),
        }
    }

    /// Notes a packet. Counts are exact while each direction stays with one worker: they are not locked instructions.
    #[inline]
    pub(crate) fn touch(&self, incarnation: u32, direction: usize, now: Millis, bytes: u32, flags: TcpFlags) -> bool {
        let mut old = self.word(LIFE).load(Ordering::Relaxed);
        loop {
            let life = Life::from_bits(old as u32);
            if (old >> 32) as u32 != incarnation || !life.is_live() {
                return false;
            }
            let new = old & !u64::from(u32::MAX) | u64::from(life.after(direction, flags).to_bits());
            if new == old {
                break;
            }
            match self
                .word(LIFE)
                .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(other) => old = other,
            }
        }
        if self.word(LAST_SEEN).load(Ordering::Relaxed) < now.0 {
            self.word(LAST_SEEN).store(now.0, Ordering::Relaxed);
        }
        let d = direction & 1;
        bump(self.word(PACKETS + d), 1);
        bump(self.word(BYTES + d), u64::from(bytes));
        true
    }

    /// Puts the record back to a free one that nobody writes, whatever it held; only while nobody else uses the table.
    pub(crate) fn reset(&self) {
        let (incarnation, _) = self.life();
        self.word(LIFE).store(
            pair32(Life::NONE.to_bits(), incarnation.wrapping_add(1)),
            Ordering::Relaxed,
        );
        self.sequence().make_even();
    }
}

#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Writing<'_> {
    fn set(&self, n: usize, value: u64) {
        self.record.word(n).store(value, Ordering::Relaxed);
    }

    fn get(&self, n: usize) -> u64 {
        self.record.word(n).load(Ordering::Relaxed)
    }

    /// Incarnation and life, which cannot change their tenant while this lives.
    pub(crate) fn life(&self) -> (u32, Life) {
        self.record.life()
    }

    pub(crate) fn last_seen(&self) -> Millis {
        self.record.last_seen()
    }

    /// The endpoint whose quota the connection uses.
    pub(crate) fn charged(&self) -> EndpointNo {
        let (_, life) = self.life();
        EndpointNo((self.get(ENDS) >> (life.opener() * 16)) as u16)
    }

    /// Fills a free record; returns the incarnation.
    pub(crate) fn fill(&self, forward: &NewFlow, reverse: &NewFlow, start: StartNo, now: Millis) -> u32 {
        for (base, tuple) in ADDRESSES.into_iter().zip([&forward.key.tuple, &reverse.key.tuple]) {
            let ([s0, s1], [d0, d1]) = (ip_words(tuple.src), ip_words(tuple.dst));
            self.set(base, s0);
            self.set(base + 1, s1);
            self.set(base + 2, d0);
            self.set(base + 3, d1);
        }
        let (f, r) = (&forward.key, &reverse.key);
        self.set(
            PORTS,
            quad16(f.tuple.sport, f.tuple.dport, r.tuple.sport, r.tuple.dport),
        );
        self.set(ORIGINS, pair32(f.origin.to_bits(), r.origin.to_bits()));
        self.set(META, meta(start, f.proto, [forward.flags, reverse.flags]));
        let (f, r) = (&forward.rewrite.deltas, &reverse.rewrite.deltas);
        self.set(
            DELTAS,
            quad16(f.l3.to_raw(), f.l4.to_raw(), r.l3.to_raw(), r.l4.to_raw()),
        );
        self.set(EGRESS, pair32(forward.egress.to_bits(), reverse.egress.to_bits()));
        self.set(
            ENDS,
            quad16(
                forward.endpoints[0].0,
                forward.endpoints[1].0,
                forward.mss_clamp,
                reverse.mss_clamp,
            ),
        );
        self.set(GENERATIONS, pair32(forward.generations[0].0, forward.generations[1].0));
        let (incarnation, _) = self.life();
        for n in PACKETS..LINK {
            self.set(n, 0);
        }
        self.set(LAST_SEEN, now.0);
        self.set(INSERTED, now.0);
        let life = Life::begin(forward.key.proto, forward.flags);
        self.set(LIFE, pair32(life.to_bits(), incarnation));
        incarnation
    }

    /// Ends the connection: its slot numbers name nothing from here on.
    pub(crate) fn clear(&self) {
        let (incarnation, _) = self.life();
        // A swap and no store: it stands after every change that a touch has made to the word, in the eyes of a model checker too.
        self.record.word(LIFE).swap(
            pair32(Life::NONE.to_bits(), incarnation.wrapping_add(1)),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn set_origin(&self, direction: usize, origin: Origin) {
        let shift = (direction & 1) * 32;
        let keep = self.get(ORIGINS) & !(u64::from(u32::MAX) << shift);
        self.set(ORIGINS, keep | u64::from(origin.to_bits()) << shift);
    }

    pub(crate) fn set_generations(&self, direction: usize, generations: [Generation; 2], start: StartNo) {
        let [a, b] = oriented(direction, generations);
        self.set(GENERATIONS, pair32(a.0, b.0));
        self.set(META, self.get(META) & u64::from(u32::MAX) | u64::from(start.0) << 32);
    }

    pub(crate) fn set_route(&self, direction: usize, route: &Route, start: StartNo) {
        let [to, from] = oriented(direction, route.egress);
        self.set(EGRESS, pair32(to.to_bits(), from.to_bits()));
        let [a, b] = oriented(direction, route.endpoints);
        let [c, d] = oriented(direction, route.mss_clamp);
        self.set(ENDS, quad16(a.0, b.0, c, d));
        self.set_generations(direction, route.generations, start);
    }
}

/// A pair as direction 0 sees it.
fn oriented<T>(direction: usize, [a, b]: [T; 2]) -> [T; 2] {
    if direction & 1 == 0 { [a, b] } else { [b, a] }
}
