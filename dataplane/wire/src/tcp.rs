//! TCP: flags, and the header fields that only some stages look at (RFC 9293 section 3.1).

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

use crate::bytes;
use crate::parse::Parsed;

/// The length of a TCP header without options.
pub const MIN_HEADER: usize = 20;

/// The flag octet of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether all of `other` are set.
    #[must_use]
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    #[must_use]
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// SYN without ACK, RST and FIN: the first segment of a connection.
    #[must_use]
    #[inline]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }

    /// Combinations that no TCP sends: SYN with FIN or RST, FIN with RST or without ACK, none of SYN, ACK and RST.
    #[must_use]
    #[inline]
    pub const fn is_impossible(self) -> bool {
        matches!(
            self.0 & 0x17,
            0x00 | 0x01 | 0x03 | 0x13 | 0x06 | 0x16 | 0x07 | 0x17 | 0x05 | 0x15
        )
    }
}

impl BitOr for TcpFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for TcpFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for TcpFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut first = true;
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                if !first {
                    f.write_str(",")?;
                }
                f.write_str(name)?;
                first = false;
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The sequence number of a parsed TCP segment.
#[must_use]
#[inline]
pub fn sequence(head: &[u8], p: &Parsed) -> Option<u32> {
    if p.is_tcp() {
        bytes::be32(head, p.l4() + 4)
    } else {
        None
    }
}

/// The acknowledgment number of a parsed TCP segment.
#[must_use]
#[inline]
pub fn acknowledgment(head: &[u8], p: &Parsed) -> Option<u32> {
    if p.is_tcp() {
        bytes::be32(head, p.l4() + 8)
    } else {
        None
    }
}

/// Where the value of the MSS option stands in the frame, and the value (RFC 9293 section 3.7.1).
///
/// A malformed option list ends the search.
#[must_use]
pub fn mss(head: &[u8], p: &Parsed) -> Option<(usize, u16)> {
    if !p.is_tcp() {
        return None;
    }
    let end = p.payload();
    let mut at = p.l4() + MIN_HEADER;
    while at < end {
        match *head.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*head.get(at + 1)?);
                if len < 2 || at + len > end {
                    return None;
                }
                if kind == 2 && len == 4 {
                    return bytes::be16(head, at + 2).map(|v| (at + 2, v));
                }
                at += len;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_syn_opens() {
        assert!(TcpFlags::SYN.opens());
        assert!((TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR).opens());
        for other in [TcpFlags::ACK, TcpFlags::RST, TcpFlags::FIN] {
            assert!(!(TcpFlags::SYN | other).opens());
        }
    }

    #[test]
    fn impossible_combinations_are_those_without_a_meaning() {
        let (f, s, r, a) = (TcpFlags::FIN, TcpFlags::SYN, TcpFlags::RST, TcpFlags::ACK);
        for ok in [s, s | a, a, f | a, r, r | a, a | TcpFlags::PSH | TcpFlags::URG] {
            assert!(!ok.is_impossible(), "{ok}");
        }
        for bad in [
            TcpFlags::NONE,
            f,
            s | f,
            s | r,
            f | r,
            s | f | a,
            s | r | a,
            f | r | a,
            s | f | r,
            TcpFlags::PSH,
        ] {
            assert!(bad.is_impossible(), "{bad}");
        }
    }

    #[test]
    fn flags_print_by_name() {
        assert_eq!((TcpFlags::SYN | TcpFlags::ACK).to_string(), "SYN,ACK");
        assert_eq!(TcpFlags::NONE.to_string(), "none");
    }
}
