//! Loads and comparisons of two atomic words at a time.
//!
//! Rust's atomics have no vectors, so the loads are inline assembly, which the compiler treats as an opaque read. Each is two
//! relaxed loads in no particular order. x86-64 has these instructions. For other processors and for checkers, each function has
//! an equivalent without them. Vectors made of two atomic loads each make a hit 4 to 8 % slower, and words alone 18 to 47 %
//! (`bench/RESULTS.md`, "The flow table").

pub(crate) use chosen::{load_pair, pairs_equal, word_with_tag};

#[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
use vectors as chosen;

#[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
use scalar as chosen;

#[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
mod vectors {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmpeq_epi32, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_movemask_epi8,
        _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32,
    };

    use crate::mmap::Line;
    use crate::sync::{AtomicU64, Ordering, fence};

    #[inline(always)]
    fn load(words: &[AtomicU64; 2]) -> __m128i {
        let vector;
        // SAFETY: the sixteen bytes are the two words behind the reference. The instruction writes no memory and uses neither flags
        // nor stack. Other threads may write the words at the same time by atomic stores. This is no access in the language's
        // memory model, and the processor reads each aligned word whole.
        unsafe {
            std::arch::asm!(
                "movups {vector}, xmmword ptr [{words}]",
                vector = lateout(xmm_reg) vector,
                words = in(reg) words,
                options(nostack, preserves_flags, readonly),
            );
        }
        vector
    }

    /// Returns both words, with their bytes in the order of memory.
    #[inline(always)]
    pub(crate) fn load_pair(words: &[AtomicU64; 2]) -> [u8; 16] {
        // SAFETY: both are sixteen bytes, and any sixteen bytes are valid.
        unsafe { std::mem::transmute::<__m128i, [u8; 16]>(load(words)) }
    }

    /// Returns true if two pairs of words equal `wanted`.
    #[inline(always)]
    pub(crate) fn pairs_equal(pairs: [&[AtomicU64; 2]; 2], wanted: [&[u8; 16]; 2]) -> bool {
        let [a, b] = pairs.map(load);
        // SAFETY: SSE2 is a part of x86-64, and sixteen bytes are read behind each reference.
        let equal = unsafe {
            let [c, d] = wanted.map(|bytes| _mm_loadu_si128(bytes.as_ptr().cast()));
            _mm_movemask_epi8(_mm_and_si128(_mm_cmpeq_epi8(a, c), _mm_cmpeq_epi8(b, d)))
        };
        equal == 0xffff
    }

    /// Returns the index of the first word behind word 0 that has `tag` in its upper half (the line's length if there is none), and
    /// word 0.
    #[inline(always)]
    pub(crate) fn word_with_tag(line: &Line, tag: u32) -> (usize, u64) {
        /// Two bits a word: the upper halves of all words but the first, and one beyond the line.
        const UPPER: u32 = 0xaaa8;
        const NONE: u32 = 1 << 16;
        let Some(pairs) = line.0.as_chunks::<2>().0.first_chunk::<4>() else {
            return (line.0.len(), 0);
        };
        let [a, b, c, d] = pairs.each_ref().map(load);
        // On x86-64 every load acquires. The fence costs no instruction and keeps the compiler from moving later loads up.
        fence(Ordering::Acquire);
        // SAFETY: SSE2 is a part of x86-64.
        let (equal, head) = unsafe {
            let tag = _mm_set1_epi32(tag.cast_signed());
            let ab = _mm_packs_epi32(_mm_cmpeq_epi32(a, tag), _mm_cmpeq_epi32(b, tag));
            let cd = _mm_packs_epi32(_mm_cmpeq_epi32(c, tag), _mm_cmpeq_epi32(d, tag));
            (_mm_movemask_epi8(_mm_packs_epi16(ab, cd)), _mm_cvtsi128_si64(a))
        };
        let equal = equal.cast_unsigned() & UPPER | NONE;
        ((equal.trailing_zeros() / 2) as usize, head.cast_unsigned())
    }
}

#[cfg(any(test, not(all(target_arch = "x86_64", not(miri), not(loom)))))]
mod scalar {
    use crate::mmap::Line;
    use crate::sync::{AtomicU64, Ordering};

    /// Returns both words, with their bytes in the order of memory.
    pub(crate) fn load_pair(words: &[AtomicU64; 2]) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        bytes
    }

    /// Returns true if two pairs of words equal `wanted`.
    pub(crate) fn pairs_equal(pairs: [&[AtomicU64; 2]; 2], wanted: [&[u8; 16]; 2]) -> bool {
        pairs.map(load_pair) == wanted.map(|bytes| *bytes)
    }

    /// Returns the index of the first word behind word 0 that has `tag` in its upper half (the line's length if there is none), and
    /// word 0.
    pub(crate) fn word_with_tag(line: &Line, tag: u32) -> (usize, u64) {
        let [first, rest @ ..] = &line.0;
        let head = first.load(Ordering::Acquire);
        let has_tag = |word: &AtomicU64| (word.load(Ordering::Acquire) >> 32) as u32 == tag;
        (rest.iter().position(has_tag).map_or(line.0.len(), |n| n + 1), head)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mmap::Line;
    use crate::sync::{AtomicU64, Ordering};

    proptest! {
        #[test]
        fn vectors_and_words_say_the_same(halves in prop::array::uniform16(0_u32..4), tag in 0_u32..4) {
            let words = std::array::from_fn(|n| u64::from(halves[2 * n]) | u64::from(halves[2 * n + 1]) << 32);
            let line = Line(words.map(AtomicU64::new));
            prop_assert_eq!(word_with_tag(&line, tag), scalar::word_with_tag(&line, tag));
            let [a, b] = [0, 4].map(|n| line.0[n..].first_chunk::<2>().unwrap());
            let (own, other) = ([a, b].map(scalar::load_pair), [b, a].map(scalar::load_pair));
            prop_assert!(pairs_equal([a, b], own.each_ref()));
            prop_assert_eq!(pairs_equal([a, b], other.each_ref()), scalar::pairs_equal([a, b], other.each_ref()));
            for pair in line.0.array_windows::<2>() {
                prop_assert_eq!(load_pair(pair), scalar::load_pair(pair));
                prop_assert_eq!(&load_pair(pair)[8..], &pair[1].load(Ordering::Relaxed).to_ne_bytes()[..]);
            }
        }
    }
}
