//! Which address a new attachment gets from the node's pod range.
//!
//! Each range keeps its first addresses for heddle: the host port's own, the one that host traffic to Services is
//! masqueraded to, and one for the frontends of the node. Pods get the next free address after the one given last, so a
//! freed address rests for a whole round of the range, and in a small one for as long as there is any other.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses at the beginning of a range that pods never get, besides the network's own.
pub const RESERVED: u128 = 3;
/// IPv6 ranges are used up to this offset: enough for a node, and addresses stay short.
const LARGEST_OFFSET: u128 = 0xffff_fffe;

/// The address of the host port, the first of the range; `None` where the range is too small to serve pods.
#[must_use]
pub fn host_address(range: IpNet) -> Option<IpAddr> {
    reserved(range, 1)
}

/// The address that host traffic to Services is masqueraded to, the second of the range.
#[must_use]
pub fn masquerade_address(range: IpNet) -> Option<IpAddr> {
    reserved(range, 2)
}

/// The addresses by which processes of the node reach frontends whose addresses the node itself holds, IPv4 and IPv6: the
/// third of the first range of each family.
#[must_use]
pub fn frontends_addresses(ranges: &[IpNet]) -> [Option<IpAddr>; 2] {
    [true, false].map(|v4| {
        let family = ranges.iter().filter(|range| range.addr().is_ipv4() == v4);
        family.copied().find_map(|range| reserved(range, 3))
    })
}

fn reserved(range: IpNet, offset: u128) -> Option<IpAddr> {
    offsets(range).map(|_| at(range, offset))
}

/// Chooses the next address of `range` after `last` that nobody has and that was not freed lately; when only freed ones
/// are left, the one freed longest ago. `freed` is in the order of freeing. `None`: every address is taken.
#[must_use]
pub fn pick(range: IpNet, last: Option<IpAddr>, taken: &HashSet<IpAddr>, freed: &VecDeque<IpAddr>) -> Option<IpAddr> {
    let (first, end) = offsets(range)?;
    let start = last
        .and_then(|last| offset_of(range, last))
        .filter(|o| (first..end).contains(o))
        .unwrap_or(end);
    let size = end - first + 1;
    let resting: HashSet<&IpAddr> = freed.iter().collect();
    // Among one more offset than there are addresses to avoid, one is free.
    let tries = size.min((taken.len() + resting.len()) as u128 + 1);
    let fresh = (1..=tries)
        .map(|step| at(range, first + (start - first + step) % size))
        .find(|address| !taken.contains(address) && !resting.contains(address));
    fresh.or_else(|| {
        let usable =
            |a: &&IpAddr| !taken.contains(*a) && offset_of(range, **a).is_some_and(|o| (first..=end).contains(&o));
        freed.iter().find(usable).copied()
    })
}

/// The first and the last offset that pods may get. The network's own address and the last one (IPv4: broadcast) are
/// nobody's; RFC 4291 section 2.6.1 gives offset 0 of IPv6 to all routers.
fn offsets(range: IpNet) -> Option<(u128, u128)> {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1u128.checked_shl(host_bits).map_or(u128::MAX, |n| n - 1);
    let last = (all.checked_sub(1)?).min(LARGEST_OFFSET);
    let first = RESERVED + 1;
    (first <= last).then_some((first, last))
}

fn at(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from(
            u32::from(network).wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX)),
        )),
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network).wrapping_add(offset))),
    }
}

fn offset_of(range: IpNet, address: IpAddr) -> Option<u128> {
    if !range.contains(&address) {
        return None;
    }
    match (range.network(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => Some(u128::from(u32::from(address) - u32::from(network))),
        (IpAddr::V6(network), IpAddr::V6(address)) => Some(u128::from(address) - u128::from(network)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_addresses_are_heddles() {
        let none = HashSet::new();
        assert_eq!(host_address(net("10.0.1.0/24")), Some(ip("10.0.1.1")));
        assert_eq!(masquerade_address(net("fd00:1::/64")), Some(ip("fd00:1::2")));
        assert_eq!(
            pick(net("10.0.1.0/24"), None, &none, &VecDeque::new()),
            Some(ip("10.0.1.4"))
        );
        assert_eq!(
            pick(net("fd00:1::/64"), None, &none, &VecDeque::new()),
            Some(ip("fd00:1::4"))
        );
    }

    #[test]
    fn ranges_without_room_give_nothing() {
        for range in ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
            assert_eq!(
                pick(net(range), None, &HashSet::new(), &VecDeque::new()),
                None,
                "{range}"
            );
            assert_eq!(host_address(net(range)), None, "{range}");
        }
        assert_eq!(
            pick(net("::/0"), None, &HashSet::new(), &VecDeque::new()),
            Some(ip("::4"))
        );
        assert_eq!(
            pick(net("0.0.0.0/0"), None, &HashSet::new(), &VecDeque::new()),
            Some(ip("0.0.0.4"))
        );
    }

    #[test]
    fn a_small_range_reuses_the_address_freed_longest_ago() {
        let range = net("10.0.0.0/29"); // pods: .4 .5 .6
        let freed = VecDeque::from([ip("10.0.0.6"), ip("10.0.0.4")]);
        let mut taken = HashSet::from([ip("10.0.0.5")]);
        assert_eq!(pick(range, Some(ip("10.0.0.5")), &taken, &freed), Some(ip("10.0.0.6")));
        taken.insert(ip("10.0.0.6"));
        assert_eq!(pick(range, Some(ip("10.0.0.6")), &taken, &freed), Some(ip("10.0.0.4")));
        taken.insert(ip("10.0.0.4"));
        assert_eq!(pick(range, Some(ip("10.0.0.4")), &taken, &freed), None);
    }

    proptest! {
        /// Against the naive way: list every address of the range and look for one that may be given.
        #[test]
        fn gives_a_free_address_whenever_there_is_one(
            prefix in 24u8..=32,
            last in proptest::option::of(0u8..=255),
            taken in proptest::collection::hash_set(0u8..=255, 0..255),
            freed in proptest::collection::vec(0u8..=255, 0..20),
        ) {
            let range: IpNet = format!("10.1.2.0/{prefix}").parse().unwrap();
            let address = |n: u8| IpAddr::from([10, 1, 2, n]);
            let taken: HashSet<IpAddr> = taken.into_iter().map(address).collect();
            let freed: VecDeque<IpAddr> = freed.into_iter().map(address).collect();
            let size = 1u16 << (32 - prefix);
            let free: Vec<IpAddr> = (4..size.saturating_sub(1))
                .map(|n| address(u8::try_from(n).unwrap()))
                .filter(|a| !taken.contains(a))
                .collect();
            match pick(range, last.map(address), &taken, &freed) {
                None => prop_assert!(free.is_empty(), "{free:?} were free"),
                Some(given) => {
                    prop_assert!(free.contains(&given));
                    if freed.contains(&given) {
                        prop_assert!(free.iter().all(|a| freed.contains(a)), "a rested address was free");
                    }
                }
            }
        }
    }
}
