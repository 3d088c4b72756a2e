//! Networks of both families.

use std::fmt;

use heddle_wire::Ip;

/// A network: an address without host bits and a length in bits of its family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: Ip,
    len: u8,
}

impl Prefix {
    /// Returns the network of `len` bits that `addr` lies in; `len` is capped to the length of the family's addresses.
    #[must_use]
    pub fn new(addr: Ip, len: u8) -> Self {
        let len = len.min(if addr.is_v4() { 32 } else { 128 });
        let bits = u32::from(len) + if addr.is_v4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Self {
            addr: Ip::from_v6((u128::from_be_bytes(addr.octets()) & mask).to_be_bytes()),
            len,
        }
    }

    /// Returns the network that contains `addr` alone.
    #[must_use]
    pub fn host(addr: Ip) -> Self {
        Self::new(addr, 128)
    }

    /// Returns the first address.
    #[must_use]
    pub const fn addr(&self) -> Ip {
        self.addr
    }

    /// Returns the length in bits, at most 32 (IPv4) or 128 (IPv6).
    #[must_use]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Returns true for the network of all addresses of its family.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns true for an IPv4 network. (`::/96` and shorter contain the mapped range, but are IPv6.)
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.addr.is_v4()
    }

    /// Returns the last address.
    #[must_use]
    pub fn last(&self) -> Ip {
        let host = u128::MAX
            .checked_shr(u32::from(self.len) + if self.is_v4() { 96 } else { 0 })
            .unwrap_or(0);
        Ip::from_v6((u128::from_be_bytes(self.addr.octets()) | host).to_be_bytes())
    }

    /// Returns true if `addr` is of the same family and lies in this network.
    #[must_use]
    pub fn contains(&self, addr: Ip) -> bool {
        self.is_v4() == addr.is_v4() && Self::new(addr, self.len).addr == self.addr
    }

    /// Returns true if `other` lies in this network or equals it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::IpAddr;

    pub(crate) fn ip(s: &str) -> Ip {
        Ip::from(s.parse::<IpAddr>().unwrap())
    }

    pub(crate) fn p(s: &str) -> Prefix {
        let (a, l) = s.split_once('/').unwrap();
        Prefix::new(ip(a), l.parse().unwrap())
    }

    #[test]
    fn prefixes_know_their_addresses() {
        assert_eq!(p("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(p("10.1.2.3/8").last(), ip("10.255.255.255"));
        assert_eq!(p("0.0.0.0/0").last(), ip("255.255.255.255"));
        assert_eq!(p("fd00::1/64").last(), ip("fd00::ffff:ffff:ffff:ffff"));
        assert!(p("0.0.0.0/0").contains(ip("1.2.3.4")));
        assert!(!p("::/0").contains(ip("1.2.3.4")));
        assert!(!p("0.0.0.0/0").contains(ip("fd00::1")));
        assert!(p("10.0.0.0/8").covers(&p("10.1.0.0/16")));
        assert!(!p("10.1.0.0/16").covers(&p("10.0.0.0/8")));
        assert_eq!(p("::/0").last(), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    }
}
