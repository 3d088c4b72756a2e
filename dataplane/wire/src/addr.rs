//! The packet path's address types: fixed-size, `Copy`, comparable without a branch on the family.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address (IEEE 802), in wire order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// The address of heddle's gateway, the same for every pod on every node.
    pub const GATEWAY: Self = Self([0x02, 0x68, 0x65, 0x64, 0x64, 0x6c]);

    /// Returns the address of a node's tunnel end: locally administered (IEEE 802c), and always the same for one name.
    ///
    /// 46 bits are a hash of the name, FNV-1a with the finalizer of MurmurHash3. In a cluster of 5,000 nodes, two have one address
    /// with a probability of 2e-7.
    #[must_use]
    pub fn of_vtep(node: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for octet in node.bytes() {
            hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        let [first, b, c, d, e, g, _, _] = hash.to_be_bytes();
        Self([first & 0xfc | 0x02, b, c, d, e, g])
    }

    /// Returns true if the group bit is set, as in the broadcast address.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv4 or IPv6 address in 16 octets. IPv4 is stored as the IPv4-mapped `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
///
/// The parser refuses a packet with an IPv4-mapped address in an IPv6 header, so the two families do not mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Ip([u8; 16]);

impl Hash for Ip {
    /// Hashes the address as one number, which is several times as fast as sixteen octets.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.0));
    }
}

impl Ip {
    /// `::`, which also stands for no address.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// Makes an IPv4 address from four octets in wire order.
    #[must_use]
    pub const fn from_v4(o: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]])
    }

    /// Makes an IPv6 address from sixteen octets in wire order.
    #[must_use]
    pub const fn from_v6(o: [u8; 16]) -> Self {
        Self(o)
    }

    /// Returns true for an IPv4 address.
    #[must_use]
    #[inline]
    pub const fn is_v4(&self) -> bool {
        u128::from_be_bytes(self.0) >> 32 == 0xffff
    }

    /// Returns the four octets of an IPv4 address; the last four octets of an IPv6 address.
    #[must_use]
    pub const fn v4_octets(&self) -> [u8; 4] {
        let o = &self.0;
        [o[12], o[13], o[14], o[15]]
    }

    /// Returns all sixteen octets.
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        self.0
    }

    /// Returns the address as the standard library's type.
    #[must_use]
    pub fn to_std(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(self.v4_octets()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.0))
        }
    }
}

impl From<IpAddr> for Ip {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => Self::from_v4(a.octets()),
            IpAddr::V6(a) => Self::from_v6(a.octets()),
        }
    }
}

impl From<Ipv4Addr> for Ip {
    fn from(a: Ipv4Addr) -> Self {
        Self::from_v4(a.octets())
    }
}

impl From<Ipv6Addr> for Ip {
    fn from(a: Ipv6Addr) -> Self {
        Self::from_v6(a.octets())
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mac_addresses_print_as_people_write_them() {
        assert_eq!(MacAddr::GATEWAY.to_string(), "02:68:65:64:64:6c");
        assert!(MacAddr::BROADCAST.is_multicast() && MacAddr([0x33, 0x33, 0, 0, 0, 1]).is_multicast());
        assert!(!MacAddr::GATEWAY.is_multicast());
    }

    #[test]
    fn tunnel_ends_follow_from_the_names_of_their_nodes() {
        // A node that is upgraded keeps its address: other nodes and kernels know it.
        assert_eq!(MacAddr::of_vtep("node-1").to_string(), "92:dd:3f:4c:04:e1");
        let all: std::collections::BTreeSet<MacAddr> =
            (0..10_000).map(|n| MacAddr::of_vtep(&format!("node-{n}"))).collect();
        assert_eq!(all.len(), 10_000);
        for mac in all.into_iter().chain([MacAddr::of_vtep("")]) {
            assert_eq!(mac.0[0] & 3, 2, "{mac} is locally administered, and no group");
            assert_ne!(mac, MacAddr::GATEWAY);
        }
    }

    #[test]
    fn families_are_distinguished() {
        let four: Ip = Ipv4Addr::new(10, 0, 0, 1).into();
        assert!(four.is_v4());
        assert_eq!(
            (four.to_string(), four.v4_octets()),
            ("10.0.0.1".to_owned(), [10, 0, 0, 1])
        );
        let six: Ip = Ipv6Addr::LOCALHOST.into();
        assert!(!six.is_v4() && !Ip::UNSPECIFIED.is_v4());
        assert_eq!(format!("{six} {six:?}"), "::1 ::1");
    }

    proptest! {
        #[test]
        fn conversion_and_back_is_the_same_address(a: IpAddr) {
            let a = a.to_canonical();
            let ip = Ip::from(a);
            prop_assert_eq!((ip.to_std(), ip.is_v4(), ip.to_string()), (a, a.is_ipv4(), a.to_string()));
        }

        #[test]
        fn order_is_that_of_the_family(a: Ipv4Addr, b: Ipv4Addr, c: Ipv6Addr, d: Ipv6Addr) {
            prop_assert_eq!(Ip::from(a).cmp(&Ip::from(b)), a.cmp(&b));
            prop_assert_eq!(Ip::from(c).cmp(&Ip::from(d)), c.cmp(&d));
        }
    }
}
