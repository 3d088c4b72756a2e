//! The addresses at the beginning of a node's pod range, which heddle keeps for itself.
//!
//! Offset 1 is the host port's address, 2 the source of masqueraded host traffic to Services, 3 the address at which the
//! node's own processes reach external frontends that the node itself holds. Pods get the offsets from
//! [`first_and_last_pod_offset`]; which of them a pod gets is decided by the agent's attachments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses after the network's own that pods never get.
pub const RESERVED: u128 = 3;
/// The last offset that is used in an IPv6 range: 2^32 addresses are enough for a node, and they stay short in print.
const LARGEST_OFFSET: u128 = 0xffff_fffe;

/// Returns the host port's address, the first of the range; `None` if the range is too small to serve pods.
#[must_use]
pub fn host_address(range: IpNet) -> Option<IpAddr> {
    reserved(range, 1)
}

/// Returns the source address of masqueraded host traffic to Services, the second of the range.
#[must_use]
pub fn masquerade_address(range: IpNet) -> Option<IpAddr> {
    reserved(range, 2)
}

/// Returns the addresses, IPv4 and IPv6, at which the node's processes reach external frontends that the node itself
/// holds: the third address of the first range of each family.
#[must_use]
pub fn external_alias_addresses(ranges: &[IpNet]) -> [Option<IpAddr>; 2] {
    [true, false].map(|v4| {
        let family = ranges.iter().filter(|range| range.addr().is_ipv4() == v4);
        family.copied().find_map(|range| reserved(range, 3))
    })
}

fn reserved(range: IpNet, offset: u128) -> Option<IpAddr> {
    first_and_last_pod_offset(range).map(|_| address_at(range, offset))
}

/// Returns the first and the last offset that pods may get; `None` if the range has no room for a pod.
///
/// The network's own address and the last one (IPv4: broadcast) belong to nobody; RFC 4291 section 2.6.1 gives offset 0 of
/// an IPv6 range to all routers.
#[must_use]
pub fn first_and_last_pod_offset(range: IpNet) -> Option<(u128, u128)> {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1u128.checked_shl(host_bits).map_or(u128::MAX, |n| n - 1);
    let last = (all.checked_sub(1)?).min(LARGEST_OFFSET);
    let first = RESERVED + 1;
    (first <= last).then_some((first, last))
}

/// Returns the address at an offset of a range.
#[must_use]
pub fn address_at(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from(
            u32::from(network).wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX)),
        )),
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network).wrapping_add(offset))),
    }
}

/// Returns an address's offset in a range; `None` if the address lies outside.
#[must_use]
pub fn offset_of(range: IpNet, address: IpAddr) -> Option<u128> {
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
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_addresses_of_a_range_are_reserved() {
        assert_eq!(host_address(net("10.0.1.0/24")), Some(ip("10.0.1.1")));
        assert_eq!(masquerade_address(net("fd00:1::/64")), Some(ip("fd00:1::2")));
        assert_eq!(
            external_alias_addresses(&[net("10.0.1.0/24"), net("fd00:1::/64"), net("10.0.2.0/24")]),
            [Some(ip("10.0.1.3")), Some(ip("fd00:1::3"))]
        );
    }

    #[test]
    fn ranges_that_are_too_small_have_no_reserved_addresses() {
        for range in ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
            assert_eq!(host_address(net(range)), None, "{range}");
        }
        for (range, first) in [("::/0", "::4"), ("0.0.0.0/0", "0.0.0.4")] {
            let (offset, _) = first_and_last_pod_offset(net(range)).unwrap();
            assert_eq!(address_at(net(range), offset), ip(first), "{range}");
            assert_eq!(offset_of(net(range), ip(first)), Some(offset), "{range}");
        }
    }
}
