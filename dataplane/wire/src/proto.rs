//! IP protocol numbers.

use std::fmt;

/// The protocol number of an IP packet, behind all extension headers (IANA protocol numbers).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Proto(pub u8);

impl Proto {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// Returns true if the protocol has source and destination ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("ICMP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::SCTP => f.write_str("SCTP"),
            Self(n) => write!(f, "IP protocol {n}"),
        }
    }
}

impl fmt::Debug for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_print_by_name_or_number() {
        let names: Vec<_> = [
            Proto::TCP,
            Proto::UDP,
            Proto::SCTP,
            Proto::ICMP,
            Proto::ICMPV6,
            Proto(47),
        ]
        .iter()
        .map(Proto::to_string)
        .collect();
        assert_eq!(names, ["TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "IP protocol 47"]);
    }

    #[test]
    fn three_protocols_have_ports() {
        let with: Vec<u8> = (0..=255).filter(|n| Proto(*n).has_ports()).collect();
        assert_eq!(with, [6, 17, 132]);
    }
}
