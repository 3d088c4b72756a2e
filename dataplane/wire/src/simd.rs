//! Prefetch, searches in a cache line, and the vector sum of long slices: the only unsafe code of the crate. Tests compare each
//! function with a safe one.
//!
//! Processors without an implementation here use portable code: no prefetch, and the scalar functions.

#![allow(unsafe_code, reason = "processor intrinsics; the rest of the crate forbids it")]

/// Prefetches the start of `what` into the nearest cache, for a read that comes soon.
#[inline(always)]
pub fn prefetch<T: ?Sized>(what: &T) {
    let address = std::ptr::from_ref(what).cast::<i8>();
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86_64. A prefetch is a hint that reads no value and faults on no address, and this address is
        // a live reference's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: `prfm` is a hint that reads no value and faults on no address; no register or memory is changed.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}

/// Prefetches the 64 octets before `what`, for a write that comes soon. They need not be memory of the process.
#[inline(always)]
pub fn prefetch_before<T: ?Sized>(what: &T) {
    let address = std::ptr::from_ref(what).cast::<i8>().wrapping_sub(64);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: SSE is part of x86_64. A prefetch is a hint that changes no value and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(address) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: `prfm` is a hint that changes no value and faults on no address; no register or memory is changed.
        unsafe {
            std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}

/// Returns a bit for each octet, set if the octet equals `wanted`. The first octet has the lowest bit.
#[inline(always)]
#[must_use]
pub fn equal(octets: &[u8; 32], wanted: u8) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        let at = octets.as_ptr().cast::<__m128i>();
        // SAFETY: SSE2 is part of x86_64; the 32 octets are two loads of 16, which need no alignment.
        let halves = unsafe {
            let wanted = _mm_set1_epi8(wanted.cast_signed());
            [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))]
                .map(|half| _mm_movemask_epi8(_mm_cmpeq_epi8(half, wanted)))
        };
        halves[0].cast_unsigned() | halves[1].cast_unsigned() << 16
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    equal_scalar(octets, wanted)
}

/// The portable version, which the tests compare with the vector version.
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
fn equal_scalar(octets: &[u8; 32], wanted: u8) -> u32 {
    octets
        .iter()
        .rev()
        .fold(0, |bits, octet| bits << 1 | u32::from(*octet == wanted))
}

/// Returns how many of the sorted numbers are at most `limit`.
#[inline(always)]
#[must_use]
pub fn count_up_to(ordered: &[u16; 16], limit: u16) -> usize {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
            _mm_setzero_si128, _mm_subs_epu16,
        };
        let at = ordered.as_ptr().cast::<__m128i>();
        // SAFETY: SSE2 is part of x86_64; the sixteen numbers are two loads of 16 octets, which need no alignment.
        let up_to = unsafe {
            let (limit, zero) = (_mm_set1_epi16(limit.cast_signed()), _mm_setzero_si128());
            let [low, high] = [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))]
                .map(|numbers| _mm_cmpeq_epi16(_mm_subs_epu16(numbers, limit), zero));
            _mm_movemask_epi8(_mm_packs_epi16(low, high))
        };
        // The numbers are sorted, so those at most `limit` come first.
        up_to.trailing_ones() as usize
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    count_up_to_scalar(ordered, limit)
}

/// The portable version, which the tests compare with the vector version.
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
fn count_up_to_scalar(ordered: &[u16; 16], limit: u16) -> usize {
    ordered.iter().filter(|number| **number <= limit).count()
}

/// The length in octets from which the vector sum is faster than the scalar one.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const VECTOR_FROM: usize = 256;

/// Returns the sum of 32-bit words in the machine's byte order, the last one padded with zeros. It folds to the checksum's sum.
///
/// The sum of 2^32 words would overflow. Slices are never longer than a packet.
#[inline]
pub(crate) fn words(bytes: &[u8]) -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if bytes.len() >= VECTOR_FROM && is_x86_feature_detected!("avx2") {
        // SAFETY: the condition has checked that the processor has AVX2.
        return unsafe { words_avx2(bytes) };
    }
    words_scalar(bytes)
}

/// The portable version, which the tests compare with the vector version.
#[inline]
fn words_scalar(bytes: &[u8]) -> u64 {
    let mut sum: u64 = 0;
    let mut blocks = bytes.chunks_exact(4);
    for b in &mut blocks {
        sum += u64::from(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    }
    let rest = blocks.remainder();
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
    }
    sum
}

/// Computes [`words`] with AVX2: sixteen words in each step, added to sums of 64 bits.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
fn words_avx2(bytes: &[u8]) -> u64 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_set1_epi64x, _mm256_setzero_si256,
        _mm256_srli_epi64,
    };
    let low = _mm256_set1_epi64x(0xffff_ffff);
    let mut sums = [_mm256_setzero_si256(); 4];
    let mut blocks = bytes.chunks_exact(64);
    for block in &mut blocks {
        let at = block.as_ptr().cast::<__m256i>();
        // SAFETY: `block` is 64 bytes long, so both loads of 32 are within it; they need no alignment.
        let (a, b) = unsafe { (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))) };
        sums[0] = _mm256_add_epi64(sums[0], _mm256_and_si256(a, low));
        sums[1] = _mm256_add_epi64(sums[1], _mm256_srli_epi64::<32>(a));
        sums[2] = _mm256_add_epi64(sums[2], _mm256_and_si256(b, low));
        sums[3] = _mm256_add_epi64(sums[3], _mm256_srli_epi64::<32>(b));
    }
    let all = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
    // SAFETY: both types are 32 bytes without padding, and any bytes are four numbers.
    let lanes: [u64; 4] = unsafe { std::mem::transmute(all) };
    lanes.iter().sum::<u64>() + words_scalar(blocks.remainder())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefetch_changes_nothing() {
        let bytes = [7u8; 100];
        prefetch(&bytes);
        prefetch(&bytes[100..]);
        prefetch::<[u8]>(&[]);
        prefetch_before(&bytes);
        prefetch_before(&bytes[100..]);
        prefetch_before::<[u8]>(&[]);
        assert_eq!(bytes, [7; 100]);
    }

    #[test]
    fn a_long_slice_of_ones_does_not_overflow() {
        let bytes = vec![0xff; 1 << 17];
        assert_eq!(words(&bytes), (1 << 15) * u64::from(u32::MAX));
    }

    proptest! {
        #[test]
        fn the_vector_search_is_that_of_its_twin(octets in prop::array::uniform32(0u8..4), wanted in 0u8..4, high in any::<bool>()) {
            let up = |octet: u8| if high { octet | 0x80 } else { octet };
            let octets = octets.map(up);
            prop_assert_eq!(equal(&octets, up(wanted)), equal_scalar(&octets, up(wanted)));
        }

        #[test]
        fn the_vector_count_is_that_of_its_twin(mut numbers in prop::array::uniform16(any::<u16>()), at in 0usize..16, one in 0u16..3) {
            numbers.sort_unstable();
            let limit = numbers[at].wrapping_add(one).wrapping_sub(1);
            prop_assert_eq!(count_up_to(&numbers, limit), count_up_to_scalar(&numbers, limit));
            prop_assert_eq!(count_up_to(&[limit; 16], limit), 16);
        }

        #[test]
        fn the_vector_sum_is_that_of_its_twin(bytes in prop::collection::vec(any::<u8>(), 0..5000), skip in 0usize..70) {
            let bytes = bytes.get(skip..).unwrap_or(&[]);
            prop_assert_eq!(words(bytes), words_scalar(bytes));
        }
    }
}
