//! Where the words of a table live: cache lines of atomics, owned or in a mapped file.

use crate::sync::AtomicU64;

/// Words in a line.
pub(crate) const LINE_WORDS: usize = 8;

/// One cache line.
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [AtomicU64; LINE_WORDS]);

impl Default for Line {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The lines of a table.
pub(crate) enum Memory {
    /// On the heap, gone with the table.
    Owned(Box<[Line]>),
}

impl Memory {
    /// Zeroed lines on the heap.
    pub(crate) fn owned(lines: usize) -> Self {
        Self::Owned((0..lines).map(|_| Line::default()).collect())
    }

    #[inline]
    pub(crate) fn lines(&self) -> &[Line] {
        match self {
            Self::Owned(lines) => lines,
        }
    }
}

/// Asks the processor to have this line at hand soon. No effect but on time.
#[inline]
pub(crate) fn prefetch(line: &Line) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    // SAFETY: prefetching has no effect on memory, and the pointer comes from a reference.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(line).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = line;
}
