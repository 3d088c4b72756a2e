//! The names and addresses of the host port that are the same on every node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The name of the node's end.
pub const INTERFACE: &str = "heddle0";
/// The name of the dataplane's end.
pub const PEER: &str = "hdhost";
/// The gateway of pods and of the host port's routes; it exists only in heddle.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway of pods and of the host port's routes.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Returns the gateway of an address's family.
#[must_use]
pub const fn gateway_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
    }
}
