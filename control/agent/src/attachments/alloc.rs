//! Chooses the address of a new attachment from a pod range of the node.
//!
//! heddle keeps the first addresses of each range for itself ([`heddle_model::pod_range`]). A pod gets the next free address
//! after the one allocated last. A freed address is therefore not used again until the whole range was used, or, in a small
//! range, as long as any other address is free.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use heddle_model::pod_range::{address_at, first_and_last_pod_offset, offset_of};
use ipnet::IpNet;

/// Returns the next address of `range` after `last` that is neither taken nor freed. If only freed addresses are left,
/// returns the one that was freed longest ago; `freed` is in the order of freeing. Returns `None` if every address is taken.
#[must_use]
pub fn choose_address(
    range: IpNet,
    last: Option<IpAddr>,
    taken: &HashSet<IpAddr>,
    freed: &VecDeque<IpAddr>,
) -> Option<IpAddr> {
    let (first, end) = first_and_last_pod_offset(range)?;
    let start = last
        .and_then(|last| offset_of(range, last))
        .filter(|o| (first..end).contains(o))
        .unwrap_or(end);
    let size = end - first + 1;
    let freed_set: HashSet<&IpAddr> = freed.iter().collect();
    // Of n + 1 addresses at least one is free if n are to be avoided, so the search is short even in a large range.
    let tries = size.min((taken.len() + freed_set.len()) as u128 + 1);
    let fresh = (1..=tries)
        .map(|step| address_at(range, first + (start - first + step) % size))
        .find(|address| !taken.contains(address) && !freed_set.contains(address));
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

    /// Returns the first address that a range without attachments gives.
    fn first(range: &str) -> Option<String> {
        let (taken, freed) = (HashSet::new(), VecDeque::new());
        choose_address(range.parse().unwrap(), None, &taken, &freed).map(|address| address.to_string())
    }

    #[test]
    fn the_first_addresses_are_heddles() {
        assert_eq!(first("10.0.1.0/24").as_deref(), Some("10.0.1.4"));
        assert_eq!(first("fd00:1::/64").as_deref(), Some("fd00:1::4"));
        assert_eq!(first("::/0").as_deref(), Some("::4"));
        assert_eq!(first("0.0.0.0/0").as_deref(), Some("0.0.0.4"));
    }

    #[test]
    fn ranges_without_room_give_nothing() {
        for range in ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
            assert_eq!(first(range), None, "{range}");
        }
    }

    #[test]
    fn a_small_range_reuses_the_address_freed_longest_ago() {
        let range = "10.0.0.0/29".parse().unwrap(); // pods: .4 .5 .6
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let freed = VecDeque::from([address(6), address(4)]);
        let mut taken = HashSet::from([address(5)]);
        let choose = |last, taken: &HashSet<IpAddr>| choose_address(range, Some(address(last)), taken, &freed);
        assert_eq!(choose(5, &taken), Some(address(6)));
        taken.insert(address(6));
        assert_eq!(choose(6, &taken), Some(address(4)));
        taken.insert(address(4));
        assert_eq!(choose(4, &taken), None);
    }

    proptest! {
        /// Compares with a naive search that lists every address of the range.
        #[test]
        fn returns_a_free_address_whenever_there_is_one(
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
            match choose_address(range, last.map(address), &taken, &freed) {
                None => prop_assert!(free.is_empty(), "{free:?} were free"),
                Some(chosen) => {
                    prop_assert!(free.contains(&chosen));
                    if freed.contains(&chosen) {
                        prop_assert!(free.iter().all(|a| freed.contains(a)), "an address that was never freed was available");
                    }
                }
            }
        }
    }
}
