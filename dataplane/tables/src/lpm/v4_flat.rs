//! The flat copy of the answers for IPv4 addresses: an entry for each /16, and a block for each /16 with longer prefixes.
//!
//! A lookup reads one entry and at most one block of two cache lines. Both addresses are known early, so they can be prefetched for
//! many lookups at once. If a block has too few places, the trie is used. All of this is computed from the trie.

use std::hint::select_unpredictable;
use std::ops::ControlFlow;

use heddle_wire::simd;

use super::trie::Trie;
use crate::PagedVec;

/// The most changes of the answer within a block.
const STARTS: usize = 16;

/// The answer of one /16.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Entry<V> {
    /// The answer of the prefixes of at most 16 bits.
    answer: V,
    /// The block's number; [`NO_BLOCK`] or [`DEEP`].
    block: u32,
}

/// The block number of a /16 without longer prefixes. The block of that number exists and covers no address.
const NO_BLOCK: u32 = 0;
/// The block number of a /16 with too many answers for a block, which uses the trie.
const DEEP: u32 = u32::MAX;

/// The answers of longer prefixes within a /16.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[repr(C, align(64))]
struct Block<V> {
    /// The low halves of the addresses at which the answer changes, in order. The first answer applies from 0 on. Unused starts at
    /// the end have the greatest value, and their answers repeat the last one.
    starts: [u16; STARTS],
    /// One bit for each answer. It is set if the answer comes from a prefix longer than 16 bits, and clear if the entry's answer
    /// applies instead.
    covered: u32,
    /// In a free block, the number of the next free one.
    next_free: u32,
    answers: [V; STARTS + 1],
}

impl<V: Copy> Block<V> {
    /// Returns the answer at `low`; `outer` is the answer of the prefixes of at most 16 bits.
    #[inline]
    fn answer(&self, low: u16, outer: V) -> V {
        let at = simd::count_up_to(&self.starts, low);
        // Branch-free, because a branch here would be unpredictable.
        select_unpredictable(self.covered >> at & 1 == 1, self.answers[at], outer)
    }
}

/// The flat answers.
#[derive(Clone)]
pub(super) struct V4Flat<V> {
    entries: PagedVec<Entry<V>, 256>,
    blocks: PagedVec<Block<V>>,
    /// The first free block, and the number of blocks that were ever used.
    free: u32,
    used: u32,
}

impl<V: Copy + PartialEq + Default> V4Flat<V> {
    pub(super) fn new() -> Self {
        Self {
            entries: PagedVec::new(),
            blocks: PagedVec::new(),
            free: NO_BLOCK,
            used: 0,
        }
    }

    #[inline]
    fn entry(&self, addr: u32) -> Option<&Entry<V>> {
        self.entries.get((addr >> 16) as usize)
    }

    fn entry_of(&self, high: u16) -> Entry<V> {
        self.entries.get(high.into()).copied().unwrap_or_default()
    }

    #[inline]
    fn block(&self, number: u32) -> Option<&Block<V>> {
        self.blocks.get(number as usize)
    }

    /// Returns the answer for an address; `None` if the trie must be used.
    #[inline]
    pub(super) fn lookup(&self, addr: u32) -> Option<V> {
        let Some(entry) = self.entry(addr) else {
            return Some(V::default());
        };
        match self.block(entry.block) {
            Some(block) => Some(block.answer(addr as u16, entry.answer)),
            // There are no blocks yet, or this entry has none.
            None => (entry.block == NO_BLOCK).then_some(entry.answer),
        }
    }

    /// Recomputes the answers within the prefix of `len` bits at `addr`, after a change of the trie.
    pub(super) fn renew(&mut self, trie: &Trie<V>, addr: u32, len: u8) {
        let high = (addr >> 16) as u16;
        if len > 16 {
            return self.renew_block(trie, high);
        }
        let last = high | u16::MAX.checked_shr(len.into()).unwrap_or(0);
        for high in high..=last {
            let answer = trie.lookup(&high.to_be_bytes()).unwrap_or_default();
            let block = self.entry_of(high).block;
            self.entries.set(high.into(), Entry { answer, block });
        }
    }

    fn renew_block(&mut self, trie: &Trie<V>, high: u16) {
        let mut block = Block {
            starts: [u16::MAX; STARTS],
            ..Block::default()
        };
        // Collect the starts and the answers of the runs, as long as they fit the block.
        let (mut count, mut before, mut fits) = (0, None, true);
        trie.visit_below(&high.to_be_bytes(), |start, answer| {
            if start > 0 && answer != before {
                match block.starts.get_mut(count) {
                    Some(free) => *free = start,
                    None => {
                        fits = false;
                        return ControlFlow::Break(());
                    }
                }
                count += 1;
            }
            before = answer;
            let covered = u32::from(answer.is_some());
            block.covered = block.covered & !(1 << count) | covered << count;
            block.answers[count] = answer.unwrap_or_default();
            ControlFlow::Continue(())
        });
        // The greatest address is at or behind every unused start.
        let last = block.answers[count];
        block.answers[count..].fill(last);
        if block.covered >> count & 1 == 1 {
            block.covered |= u32::MAX << count;
        }
        // Store the block, or release the old one if the /16 needs no block or does not fit one.
        let entry = self.entry_of(high);
        let number = if !fits {
            self.release(entry.block);
            DEEP
        } else if block.covered == 0 {
            self.release(entry.block);
            NO_BLOCK
        } else {
            let number = match entry.block {
                NO_BLOCK | DEEP => self.allocate(),
                number => number,
            };
            self.blocks.set(number as usize, block);
            number
        };
        self.entries.set(high.into(), Entry { block: number, ..entry });
    }

    fn allocate(&mut self) -> u32 {
        if self.free == NO_BLOCK {
            self.used += 1;
            return self.used;
        }
        let number = self.free;
        self.free = self.block(number).map_or(NO_BLOCK, |block| block.next_free);
        number
    }

    fn release(&mut self, number: u32) {
        if number == NO_BLOCK || number == DEEP {
            return;
        }
        let freed = Block {
            next_free: self.free,
            ..Block::default()
        };
        self.blocks.set(number as usize, freed);
        self.free = number;
    }

    /// Returns the number of pages copied since the last call, and resets it.
    pub(super) fn take_copied(&mut self) -> u64 {
        self.entries.take_copied() + self.blocks.take_copied()
    }
}
