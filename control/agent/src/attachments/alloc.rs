//! Which address a new attachment gets from the node's pod range.
//!
//! Each range keeps its first addresses for heddle ([`heddle_model::pod_range`]). Pods get the next free address after the one given last, so a
//! freed address rests for a whole round of the range, and in a small one for as long as there is any other.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use heddle_model::pod_range::{address_at, first_and_last_pod_offset, offset_of};
use ipnet::IpNet;

/// Chooses the next address of `range` after `last` that nobody has and that was not freed lately; when only freed ones
/// are left, the one freed longest ago. `freed` is in the order of freeing. `None`: every address is taken.
#[must_use]
pub fn pick(range: IpNet, last: Option<IpAddr>, taken: &HashSet<IpAddr>, freed: &VecDeque<IpAddr>) -> Option<IpAddr> {
    let (first, end) = first_and_last_pod_offset(range)?;
    let start = last
        .and_then(|last| offset_of(range, last))
        .filter(|o| (first..end).contains(o))
        .unwrap_or(end);
    let size = end - first + 1;
    let resting: HashSet<&IpAddr> = freed.iter().collect();
    // Among one more offset than there are addresses to avoid, one is free.
    let tries = size.min((taken.len() + resting.len()) as u128 + 1);
    let fresh = (1..=tries)
        .map(|step| address_at(range, first + (start - first + step) % size))
        .find(|address| !taken.contains(address) && !resting.contains(address));
    fresh.or_else(|| {
        let usable =
            |a: &&IpAddr| !taken.contains(*a) && offset_of(range, **a).is_some_and(|o| (first..=end).contains(&o));
        freed.iter().find(usable).copied()
    })
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
