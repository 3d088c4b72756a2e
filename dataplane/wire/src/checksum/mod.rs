//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and the CRC32c of SCTP (RFC 9260 appendix A).
//!
//! Sums of addresses cover all sixteen octets of an [`Ip`] in either family, because the `ffff` of an IPv4-mapped address is zero
//! in one's complement arithmetic.

mod crc32c;
mod delta;
mod transport;

pub use crc32c::Crc32c;
pub use delta::Delta;
pub use transport::{Finished, compute, is_partial, verify};

use crate::addr::Ip;
use crate::proto::Proto;
use crate::simd;

/// A one's complement sum of 16-bit words in network order, not yet folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of no words.
    pub const ZERO: Self = Self(0);

    /// Adds another sum.
    #[must_use]
    #[inline]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Adds one 16-bit word.
    #[must_use]
    #[inline]
    pub const fn plus_word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Subtracts one 16-bit word, by adding its one's complement.
    #[must_use]
    #[inline]
    pub const fn minus_word(self, word: u16) -> Self {
        Self(self.0 + (!word) as u64)
    }

    /// Returns the sum folded to 16 bits, not complemented. It is 0 only for a sum of zeros.
    #[must_use]
    #[inline]
    pub const fn fold(self) -> u16 {
        // Each carry is added at the low end, which causes no further carry.
        let (half, carry) = (self.0 as u32).overflowing_add((self.0 >> 32) as u32);
        let half = half + carry as u32;
        let (word, carry) = (half as u16).overflowing_add((half >> 16) as u16);
        word + carry as u16
    }

    /// Returns the checksum: folded and complemented.
    #[must_use]
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Returns the sum of the same bytes at an odd offset: the octets of each word are swapped.
    #[must_use]
    const fn shifted(self) -> Self {
        Self(self.fold().swap_bytes() as u64)
    }
}

/// Returns the sum over `bytes`. An odd last octet is padded with zero.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8]) -> Sum {
    Sum(u64::from(native(bytes).to_be()))
}

/// Returns the folded sum in the machine's byte order. The order matters only at the end (RFC 1071 section 2 (B)).
#[inline]
fn native(bytes: &[u8]) -> u16 {
    Sum(simd::words(bytes)).fold()
}

/// Returns the sum of an address.
#[must_use]
#[inline(always)]
pub const fn address(ip: Ip) -> Sum {
    let v = u128::from_be_bytes(ip.octets());
    let (sum, carry) = ((v >> 64) as u64).overflowing_add(v as u64);
    let sum = sum + carry as u64;
    Sum((sum >> 32) + (sum & 0xffff_ffff))
}

/// Returns the sum of the pseudo header of either family (RFC 9293 section 3.1, RFC 8200 section 8.1). `len` is the length of
/// the transport header and its payload.
#[must_use]
#[inline(always)]
pub const fn pseudo(src: Ip, dst: Ip, proto: Proto, len: u32) -> Sum {
    address(src).plus(address(dst)).plus(Sum(proto.0 as u64 + len as u64))
}

/// A running sum over consecutive slices of any length, including odd ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chain {
    sum: Sum,
    odd: bool,
}

impl Chain {
    /// Starts with a sum, for example of a pseudo header.
    #[must_use]
    pub const fn from(sum: Sum) -> Self {
        Self { sum, odd: false }
    }

    /// Adds the next slice.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        let s = sum(bytes);
        self.sum = self.sum.plus(if self.odd { s.shifted() } else { s });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Returns the sum so far.
    #[must_use]
    pub const fn sum(&self) -> Sum {
        self.sum
    }
}

#[cfg(test)]
mod tests;
