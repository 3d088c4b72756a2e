//! Incremental update of a checksum (RFC 1624). The change that a rewrite makes is computed once for a flow and applied to each
//! packet.

use super::{Sum, address};
use crate::addr::Ip;

/// The change that a rewrite makes to a one's complement sum: `~old + new` of RFC 1624 equation 3, folded; 0 is no change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// Returns the change from bytes with the sum `old` to bytes with the sum `new`.
    #[must_use]
    #[inline]
    pub const fn between(old: Sum, new: Sum) -> Self {
        Self::normal(Sum::ZERO.minus_word(old.fold()).plus_word(new.fold()))
    }

    /// Returns the change of one 16-bit word.
    #[must_use]
    #[inline]
    pub const fn word(old: u16, new: u16) -> Self {
        Self::normal(Sum::ZERO.minus_word(old).plus_word(new))
    }

    /// Returns the change of an address.
    #[must_use]
    #[inline]
    pub const fn address(old: Ip, new: Ip) -> Self {
        Self::between(address(old), address(new))
    }

    /// Returns the sum of both changes.
    #[must_use]
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self::normal(Sum::ZERO.plus_word(self.0).plus_word(other.0))
    }

    /// Returns the change that undoes this one.
    #[must_use]
    #[inline]
    pub const fn reverse(self) -> Self {
        Self::normal(Sum::ZERO.minus_word(self.0))
    }

    /// Returns the checksum field after the change (RFC 1624 equation 3): `HC' = ~(~HC + ~m + m')`.
    #[must_use]
    #[inline]
    pub const fn apply(self, field: u16) -> u16 {
        if self.0 == 0 {
            return field;
        }
        // The sum of two words has at most one carry.
        let sum = (!field) as u32 + self.0 as u32;
        !((sum as u16).wrapping_add((sum >> 16) as u16))
    }

    /// Returns the UDP checksum field after the change: 0 (no checksum) stays 0, and a computed 0 becomes ffff (RFC 768).
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

    /// Returns the change as a number, for storage in a flow entry.
    #[must_use]
    #[inline]
    pub const fn to_raw(self) -> u16 {
        self.0
    }

    /// Returns the change from a number of [`to_raw`](Self::to_raw).
    #[must_use]
    #[inline]
    pub const fn from_raw(raw: u16) -> Self {
        Self(if raw == 0xffff { 0 } else { raw })
    }

    /// Returns the change of a sum. ffff and 0 mean the same change. This function returns 0 for both, so that two changes can be
    /// compared.
    #[inline]
    const fn normal(sum: Sum) -> Self {
        match sum.fold() {
            0xffff => Self(0),
            d => Self(d),
        }
    }
}
