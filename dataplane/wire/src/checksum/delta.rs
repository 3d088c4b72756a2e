//! Incremental update of a checksum (RFC 1624): what a rewrite adds to it, computed once a flow and applied to each packet.

use super::{Sum, address};
use crate::addr::Ip;

/// The change that a rewrite makes to a one's complement sum: `~old + new` of RFC 1624 equation 3, folded; 0 is no change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// Of the bytes summed in `old` becoming those summed in `new`.
    #[must_use]
    #[inline]
    pub const fn between(old: Sum, new: Sum) -> Self {
        Self::normal(Sum::ZERO.minus_word(old.fold()).plus_word(new.fold()))
    }

    /// Of one 16-bit word.
    #[must_use]
    #[inline]
    pub const fn word(old: u16, new: u16) -> Self {
        Self::normal(Sum::ZERO.minus_word(old).plus_word(new))
    }

    /// Of an address.
    #[must_use]
    #[inline]
    pub const fn address(old: Ip, new: Ip) -> Self {
        Self::between(address(old), address(new))
    }

    /// Both changes.
    #[must_use]
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self::normal(Sum::ZERO.plus_word(self.0).plus_word(other.0))
    }

    /// The change back.
    #[must_use]
    #[inline]
    pub const fn reverse(self) -> Self {
        Self::normal(Sum::ZERO.minus_word(self.0))
    }

    /// The checksum field after the change (RFC 1624 equation 3): `HC' = ~(~HC + ~m + m')`.
    #[must_use]
    #[inline]
    pub const fn apply(self, field: u16) -> u16 {
        if self.0 == 0 {
            return field;
        }
        // Two words: one carry at most.
        let sum = (!field) as u32 + self.0 as u32;
        !((sum as u16).wrapping_add((sum >> 16) as u16))
    }

    /// As `apply`, for UDP: 0 (no checksum) stays 0, and a computed 0 is sent as ffff (RFC 768).
    #[must_use]
    #[inline]
    pub const fn apply_udp(self, field: u16) -> u16 {
        if field == 0 {
            return 0;
        }
        match self.apply(field) {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// As a bare number, to be kept in a flow entry.
    #[must_use]
    #[inline]
    pub const fn to_raw(self) -> u16 {
        self.0
    }

    /// From a number of `to_raw`.
    #[must_use]
    #[inline]
    pub const fn from_raw(raw: u16) -> Self {
        Self(if raw == 0xffff { 0 } else { raw })
    }

    /// ffff and 0 are the same change; 0 is the one that is tested for.
    #[inline]
    const fn normal(sum: Sum) -> Self {
        match sum.fold() {
            0xffff => Self(0),
            d => Self(d),
        }
    }
}
