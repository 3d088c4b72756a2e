//! One connection: three cache lines of atomic words, the first two under a sequence lock.
//!
//! | word  | contents |
//! |-------|----------|
//! | 0     | the sequence: odd while a thread writes words 1 to 15 or the incarnation, or fills the words from 17 on of a free record |
//! | 1, 2  | direction 0: source address |
//! | 3, 4  | direction 0: destination address |
//! | 5     | direction 0: source port, destination port, origin, protocol |
//! | 6     | direction 0: checksum deltas l3, l4, egress |
//! | 7     | flags of 0 and 1, epoch |
//! | 8..14 | direction 1: as words 1 to 6 |
//! | 14    | endpoints of direction 0, MSS clamps of 0 and 1 |
//! | 15    | generations of these endpoints |
//! | 16    | incarnation and life |
//! | 17    | last seen: 24 bits of incarnation, 40 of milliseconds |
//! | 18, 19| packets of 0 and 1: 8 bits of incarnation, 56 of the number |
//! | 20, 21| bytes of 0 and 1, likewise |
//! | 22    | link while free |
//! | 23    | inserted at |
//!
//! A direction's rewrite is the other one's key, reversed, so the record contains the addresses once.
//!
//! # Ordering
//!
//! The ordering of [`crate::seqlock`] holds for the words that the sequence guards. Hits write the last line without the sequence.
//! Word 16 contains the incarnation, which changes only under the sequence, and the life. A life begins only after the sequence is
//! even again. So a reader gets the incarnation that belongs to the words. A late worker's change of state fails if the record
//! belongs to another connection (its tenant) by then.
//!
//! Time and counts are plain stores. A worker that was stopped in the middle of a touch may write them when the record already has
//! a new tenant. So each contains the incarnation that it belongs to. A reader takes a value of another incarnation as "none since
//! the insert", and the next packet counts from there. So the late stores of one touch can make the new tenant lose its
//! own time or counts. It never gets another tenant's. (Eight bits of incarnation in a count do not detect a
//! worker that was stopped for exactly a multiple of 256 tenants.)

use heddle_ids::{EndpointId, Epoch, Generation};
use heddle_wire::rewrite::{Deltas, Tuple};
use heddle_wire::{Proto, TcpFlags};

use crate::bucket::ProbeResult;
use crate::charge::{Charge, of_words};
use crate::encoding::{
    COUNT_BITS, DirectionWords, KeyWords, LEAVING, PORTS, TIME_BITS, count_word, is_echo_reply, leaving, meta,
    origin_of, pair32, port_word, proto_of, quad16, time_word, tuple, with_lower_mss, with_origin,
};
use crate::hash::ip_from_words;
use crate::layout::RECORD_LINES;
use crate::mmap::{LINE_WORDS, Line};
use crate::seqlock::{Sequence, WriteGuard};
use crate::simd::{load_pair, pairs_equal};
use crate::state::{ConnState, Limits};
use crate::sync::{AtomicU64, Ordering};
use crate::types::{Egress, FlowKey, FlowView, Hit, Millis, NewFlow, Origin, SlotId};

const SEQUENCE: usize = 0;
const META: usize = 7;
const ENDS: usize = 14;
const GENERATIONS: usize = 15;
const STATE_WORD: usize = 16;
const LAST_SEEN: usize = 17;
const PACKETS: usize = 18;
const BYTES: usize = 20;
const LINK: usize = 22;
const INSERTED: usize = 23;

/// The number of words under the sequence.
const GUARDED: usize = 16;

/// The indices of the first word of each direction.
const DIRECTION: [usize; 2] = [1, 8];

/// The number of words of a direction.
const DIRECTION_WORDS: usize = 6;

/// A connection's route, for `FlowTable::reroute`. Index 0 is the direction of the given slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The egress of each direction.
    pub egress: [Egress; 2],
    /// The endpoints that the given direction comes from and goes to.
    pub endpoints: [EndpointId; 2],
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
    /// Their bytes, as counted by the caller.
    pub bytes: u64,
}

/// A consistent copy of the words under the sequence, with the life and time of that moment.
#[derive(Clone, Copy)]
pub(crate) struct Contents {
    words: [u64; GUARDED],
    pub(crate) incarnation: u32,
    pub(crate) conn: ConnState,
    pub(crate) last_seen: Millis,
}

impl Contents {
    /// Returns the words of a direction.
    #[inline]
    const fn at(&self, direction: usize, word: usize) -> u64 {
        self.words[DIRECTION[direction & 1] + word]
    }

    #[inline]
    pub(crate) fn tuple(&self, direction: usize) -> Tuple {
        let w = |n| self.at(direction, n);
        tuple([w(0), w(1), w(2), w(3)], w(PORTS))
    }

    #[inline]
    pub(crate) const fn proto(&self) -> Proto {
        proto_of(self.at(0, PORTS))
    }

    /// Returns the key of a direction.
    pub(crate) fn key(&self, direction: usize) -> FlowKey {
        let ports = self.at(direction, PORTS);
        FlowKey {
            tuple: self.tuple(direction),
            proto: self.proto(),
            origin: origin_of(ports),
            echo_reply: is_echo_reply(ports),
        }
    }

    /// Returns the charge of the connection.
    pub(crate) fn charge(&self) -> Charge {
        of_words(self.words[META], self.words[ENDS], self.conn, |direction, word| {
            self.at(direction, word)
        })
    }

    /// Returns the entry's view of `direction`; `None` if this crate did not write the words.
    pub(crate) fn view(&self, direction: usize) -> Option<FlowView> {
        let pair = |n| ip_from_words([n, n + 1].map(|n| self.at(direction ^ 1, n))).octets();
        DirectionWords {
            own: [self.at(direction, PORTS), self.at(direction, LEAVING)],
            peer: [pair(0), pair(2)],
            peer_ports: self.at(direction ^ 1, PORTS),
            meta: self.words[META],
            ends: self.words[ENDS],
            generations: self.words[GENERATIONS],
        }
        .checked_view(direction, self.conn, self.last_seen)
    }
}

/// The lines of one connection.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a>(pub(crate) &'a [Line; RECORD_LINES]);

/// The right to write a record. The sequence is odd while it lives.
pub(crate) struct RecordWriter<'a> {
    record: Record<'a>,
    _odd: WriteGuard<'a>,
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

    /// Returns the word in which the free list keeps its link.
    pub(crate) fn link(&self) -> &'a AtomicU64 {
        self.word(LINK)
    }

    /// Returns the same word of the record that starts with `lines`.
    pub(crate) fn link_of(lines: &'a [Line]) -> &'a AtomicU64 {
        &lines[LINK / LINE_WORDS].0[LINK % LINE_WORDS]
    }

    /// Returns a consistent copy. Waits for a writer, which never waits while it writes.
    #[inline]
    pub(crate) fn read(&self) -> Contents {
        self.sequence().read(|| {
            let mut words = [0; GUARDED];
            for (n, word) in words.iter_mut().enumerate().skip(1) {
                *word = self.word(n).load(Ordering::Relaxed);
            }
            let (incarnation, conn) = self.conn_state();
            Contents {
                words,
                incarnation,
                conn,
                last_seen: self.last_seen(incarnation),
            }
        })
    }

    /// Returns the view and the incarnation of a direction, if it is live, has the wanted key, and has not expired.
    #[inline]
    pub(crate) fn find(
        &self,
        direction: usize,
        wanted: &KeyWords,
        limits: &Limits,
        now: Millis,
    ) -> Option<(u32, FlowView)> {
        let contents = self.read();
        let differs = (0..PORTS).fold(0, |all, n| all | contents.at(direction, n) ^ wanted.addresses[n])
            | (contents.at(direction, PORTS) ^ wanted.ports) & wanted.mask;
        if differs != 0 || !contents.conn.is_live() || contents.conn.is_expired(limits, contents.last_seen, now) {
            return None;
        }
        Some((contents.incarnation, contents.view(direction)?))
    }

    /// Does the same as [`Self::find`] without a loop or a branch. Returns false if a writer was active or for any reason for which
    /// [`Self::find`] finds nothing. The content of `out` is then unspecified.
    ///
    /// It writes into `out` before it knows that the entry is the wanted one, which saves a copy of the hit.
    #[inline(always)]
    pub(crate) fn read_into(
        &self,
        found: ProbeResult,
        key: &FlowKey,
        limits: &Limits,
        now: Millis,
        out: &mut Option<Hit>,
    ) -> bool {
        let direction = found.direction();
        let Some((own, peer)) = self.directions(direction) else {
            return false;
        };
        let ([own_src, own_dst, _], [peer_src, peer_dst, _]) = (own.as_chunks::<2>().0, peer.as_chunks::<2>().0) else {
            return false;
        };
        // The key first, because the tag may be equal by chance.
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let before = self.sequence().begin();
        let ports = load(&own[PORTS]);
        if !pairs_equal([own_src, own_dst], [&key.tuple.src.octets(), &key.tuple.dst.octets()])
            || ports != port_word(&key.tuple, key.proto, key.origin, key.echo_reply)
        {
            return false;
        }
        // Then life and time. A time of another incarnation is left to `find`.
        let state_word = load(self.word(STATE_WORD));
        let conn = ConnState::from_bits(state_word as u32);
        let seen = load(self.word(LAST_SEEN));
        let of_another = (seen ^ time_word((state_word >> 32) as u32, Millis(0))) >> TIME_BITS != 0;
        let last_seen = Millis(seen & ((1 << TIME_BITS) - 1));
        if of_another || !conn.is_live() || conn.is_expired(limits, last_seen, now) {
            return false;
        }
        // The rest of the entry, which is valid if no writer was active meanwhile.
        let words = DirectionWords {
            own: [ports, load(&own[LEAVING])],
            peer: [load_pair(peer_src), load_pair(peer_dst)],
            peer_ports: load(&peer[PORTS]),
            meta: load(self.word(META)),
            ends: load(self.word(ENDS)),
            generations: load(self.word(GENERATIONS)),
        };
        *out = Some(Hit {
            slot: SlotId::from_state_word(state_word, found.record() as u32, direction),
            view: words.view(direction, conn, last_seen),
        });
        self.sequence().is_unchanged(before)
    }

    /// Returns the words of a direction and of its peer.
    #[inline(always)]
    fn directions(
        &self,
        direction: usize,
    ) -> Option<(&'a [AtomicU64; DIRECTION_WORDS], &'a [AtomicU64; DIRECTION_WORDS])> {
        let first = self.0[0].0[DIRECTION[0]..].first_chunk()?;
        let second = self.0[1].0[DIRECTION[1] - LINE_WORDS..].first_chunk()?;
        Some(if direction & 1 == 0 {
            (first, second)
        } else {
            (second, first)
        })
    }

    /// Returns true if a writer died while it wrote the record. Used by the takeover.
    pub(crate) fn is_torn(&self) -> bool {
        self.sequence().is_odd()
    }

    /// Returns the incarnation and the life.
    #[inline]
    pub(crate) fn conn_state(&self) -> (u32, ConnState) {
        let word = self.word(STATE_WORD).load(Ordering::Relaxed);
        ((word >> 32) as u32, ConnState::from_bits(word as u32))
    }

    /// Returns the time of this tenant's last packet.
    #[inline]
    pub(crate) fn last_seen(&self, incarnation: u32) -> Millis {
        let word = self.word(LAST_SEEN).load(Ordering::Relaxed);
        let of_another = (word ^ time_word(incarnation, Millis(0))) >> TIME_BITS != 0;
        if of_another {
            return self.inserted_at();
        }
        Millis(word & ((1 << TIME_BITS) - 1))
    }

    pub(crate) fn inserted_at(&self) -> Millis {
        Millis(self.word(INSERTED).load(Ordering::Relaxed))
    }

    /// Returns the counters of this tenant.
    pub(crate) fn counters(&self, incarnation: u32, direction: usize) -> Counters {
        Counters {
            packets: count(self.word(PACKETS + (direction & 1)), incarnation),
            bytes: count(self.word(BYTES + (direction & 1)), incarnation),
        }
    }

    /// Makes the connection live that [`RecordWriter::fill`] wrote into a free record. Both its buckets must be locked.
    pub(crate) fn activate(&self, incarnation: u32, conn: ConnState) {
        self.word(STATE_WORD)
            .store(pair32(conn.to_bits(), incarnation), Ordering::Relaxed);
    }

    /// Locks the record against other writers and makes readers wait.
    pub(crate) fn write(self) -> RecordWriter<'a> {
        RecordWriter {
            record: self,
            _odd: self.sequence().write(),
        }
    }

    /// Counts a packet. Counts are exact while each direction stays with one worker, because the additions are not atomic.
    #[inline(always)]
    pub(crate) fn touch(&self, incarnation: u32, direction: usize, now: Millis, bytes: u32, flags: TcpFlags) -> bool {
        let mut old = self.word(STATE_WORD).load(Ordering::Relaxed);
        loop {
            let conn = ConnState::from_bits(old as u32);
            if (old >> 32) as u32 != incarnation || !conn.is_live() {
                return false;
            }
            let new = old & !u64::from(u32::MAX) | u64::from(conn.after(direction, flags).to_bits());
            if new == old {
                break;
            }
            match self
                .word(STATE_WORD)
                .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(other) => old = other,
            }
        }
        let (seen, time) = (
            self.word(LAST_SEEN).load(Ordering::Relaxed),
            time_word(incarnation, now),
        );
        if seen < time || (seen ^ time) >> TIME_BITS != 0 {
            self.word(LAST_SEEN).store(time, Ordering::Relaxed);
        }
        let d = direction & 1;
        bump(self.word(PACKETS + d), incarnation, 1);
        bump(self.word(BYTES + d), incarnation, u64::from(bytes));
        true
    }

    /// Makes the record free, regardless of its content. Only valid while no other thread uses the table.
    pub(crate) fn reset(&self) {
        let (incarnation, _) = self.conn_state();
        self.word(STATE_WORD).store(
            pair32(ConnState::NONE.to_bits(), incarnation.wrapping_add(1)),
            Ordering::Relaxed,
        );
        self.sequence().end_dead_write();
    }
}

#[inline]
fn count(counter: &AtomicU64, incarnation: u32) -> u64 {
    let word = counter.load(Ordering::Relaxed);
    let count = word & ((1 << COUNT_BITS) - 1);
    if word == count_word(incarnation, count) {
        count
    } else {
        0
    }
}

#[inline]
fn bump(counter: &AtomicU64, incarnation: u32, by: u64) {
    let count = count(counter, incarnation).wrapping_add(by);
    counter.store(count_word(incarnation, count), Ordering::Relaxed);
}

impl RecordWriter<'_> {
    fn set(&self, n: usize, value: u64) {
        self.record.word(n).store(value, Ordering::Relaxed);
    }

    fn get(&self, n: usize) -> u64 {
        self.record.word(n).load(Ordering::Relaxed)
    }

    /// Returns incarnation and life. The tenant cannot change while this value lives.
    pub(crate) fn conn_state(&self) -> (u32, ConnState) {
        self.record.conn_state()
    }

    pub(crate) fn last_seen(&self) -> Millis {
        self.record.last_seen(self.conn_state().0)
    }

    /// Returns the charge of the connection.
    pub(crate) fn charge(&self) -> Charge {
        let (_, conn) = self.conn_state();
        of_words(self.get(META), self.get(ENDS), conn, |direction, word| {
            self.get(DIRECTION[direction & 1] + word)
        })
    }

    /// Fills a free record with everything except the life. Returns the incarnation.
    pub(crate) fn fill(&self, forward: &NewFlow, reverse: &NewFlow, epoch: Epoch, now: Millis) -> u32 {
        for (base, flow) in DIRECTION.into_iter().zip([forward, reverse]) {
            let KeyWords { addresses, ports, .. } = KeyWords::key(&flow.key);
            for (n, word) in addresses.into_iter().enumerate() {
                self.set(base + n, word);
            }
            self.set(base + PORTS, ports);
            let Deltas { l3, l4 } = flow.rewrite.deltas;
            self.set(base + LEAVING, leaving(l3.to_raw(), l4.to_raw(), flow.egress));
        }
        self.set(META, meta(epoch, [forward.flags, reverse.flags]));
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
        let (incarnation, _) = self.conn_state();
        for n in PACKETS..LINK {
            self.set(n, count_word(incarnation, 0));
        }
        self.set(LAST_SEEN, time_word(incarnation, now));
        self.set(INSERTED, now.0);
        incarnation
    }

    /// Ends the connection. Its slot ids are invalid from now on.
    pub(crate) fn clear(&self) {
        let (incarnation, _) = self.conn_state();
        let ended = pair32(ConnState::NONE.to_bits(), incarnation.wrapping_add(1));
        // A swap and not a store: it comes after every change that a touch has made to the word, for the model checker too.
        self.record.word(STATE_WORD).swap(ended, Ordering::Relaxed);
    }

    pub(crate) fn set_origin(&self, direction: usize, origin: Origin) {
        let word = DIRECTION[direction & 1] + PORTS;
        self.set(word, with_origin(self.get(word), origin));
    }

    pub(crate) fn set_generations(&self, direction: usize, generations: [Generation; 2], epoch: Epoch) {
        let [a, b] = oriented(direction, generations);
        self.set(GENERATIONS, pair32(a.0, b.0));
        self.set(META, self.get(META) & u64::from(u32::MAX) | u64::from(epoch.0) << 32);
    }

    pub(crate) fn limit_mss(&self, direction: usize, announced: u16) {
        self.set(ENDS, with_lower_mss(self.get(ENDS), direction, announced));
    }

    pub(crate) fn set_route(&self, direction: usize, route: &Route, epoch: Epoch) {
        for (base, egress) in DIRECTION.into_iter().zip(oriented(direction, route.egress)) {
            let word = base + LEAVING;
            self.set(word, pair32(self.get(word) as u32, egress.to_bits()));
        }
        let [a, b] = oriented(direction, route.endpoints);
        let [c, d] = oriented(direction, route.mss_clamp);
        self.set(ENDS, quad16(a.0, b.0, c, d));
        self.set_generations(direction, route.generations, epoch);
    }
}

/// Returns a pair in the order of direction 0.
fn oriented<T>(direction: usize, [a, b]: [T; 2]) -> [T; 2] {
    if direction & 1 == 0 { [a, b] } else { [b, a] }
}
