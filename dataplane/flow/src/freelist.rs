//! A lock-free stack of free numbers, with a high-water mark so that a new table needs no list to be written.
//!
//! # Ordering
//!
//! The head is a tag and the number plus one. A pop reads the link of the top and then swaps the head if it is unchanged. Every
//! pop raises the tag, which detects a head that was popped and pushed again in between. A push publishes the link with Release
//! and a pop reads it with Acquire, so the next owner sees all that the previous one wrote.

use crate::mmap::Line;
use crate::sync::{AtomicU64, Ordering, relax};

/// Indices of the words in the line.
const HEAD: usize = 0;
const MARK: usize = 1;

/// A free list in one line. The links are in the free elements.
#[derive(Clone, Copy)]
pub(crate) struct FreeList<'a> {
    head: &'a AtomicU64,
    mark: &'a AtomicU64,
    limit: u32,
}

impl<'a> FreeList<'a> {
    pub(crate) fn new(line: &'a Line, limit: u32) -> Self {
        Self {
            head: &line.0[HEAD],
            mark: &line.0[MARK],
            limit,
        }
    }

    /// Returns the mark: numbers at or above it were never allocated.
    pub(crate) fn mark(&self) -> u32 {
        (self.mark.load(Ordering::Acquire) as u32).min(self.limit)
    }

    /// Returns the number that a pop would return at this moment.
    #[inline]
    pub(crate) fn peek(&self) -> Option<u32> {
        let top = (self.head.load(Ordering::Relaxed) as u32).checked_sub(1);
        top.or_else(|| Some(self.mark()).filter(|mark| *mark < self.limit))
    }

    /// Empties the list and counts the numbers below `mark` as allocated. Only valid while no other thread uses the list.
    pub(crate) fn reset(&self, mark: u32) {
        self.head.store(0, Ordering::Relaxed);
        self.mark.store(u64::from(mark), Ordering::Release);
    }

    /// Allocates a number. `link(n)` is the word in which number `n` keeps its link while it is free.
    pub(crate) fn pop<'l>(&self, link: impl Fn(u32) -> &'l AtomicU64) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        let mut round = 0;
        while let Some(n) = (head as u32).checked_sub(1) {
            let next = link(n).load(Ordering::Relaxed) as u32;
            let tagged = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self
                .head
                .compare_exchange(head, tagged, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(n),
                Err(now) => head = now,
            }
            relax(round);
            round += 1;
        }
        let mut mark = self.mark.load(Ordering::Relaxed);
        while mark < u64::from(self.limit) {
            match self
                .mark
                .compare_exchange(mark, mark + 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(mark as u32),
                Err(now) => mark = now,
            }
        }
        None
    }

    /// Frees a number.
    pub(crate) fn push(&self, n: u32, link: &AtomicU64) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Release for readers that follow the link without owning the element: see `bucket`.
            link.store(u64::from(head as u32), Ordering::Release);
            let top = head & !u64::from(u32::MAX) | u64::from(n + 1);
            match self
                .head
                .compare_exchange(head, top, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}
