//! The uplink: the interface with the node's InternalIP. heddle only reads its MTU; it neither changes the interface nor
//! receives its packets.

use std::net::IpAddr;

use heddle_linux::{Address, Link, Netlink};

use crate::error::HostError;

/// The uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The name.
    pub name: String,
    /// The interface index.
    pub index: u32,
    /// The MTU; 65,535 if the interface's MTU is larger, as for `lo`.
    pub mtu: u16,
}

impl From<Link> for Uplink {
    fn from(link: Link) -> Self {
        Self {
            name: link.name,
            index: link.index,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        }
    }
}

/// Finds the interface with this name. Without a name, finds the interface that has one of the addresses; the first address
/// that any interface has decides. `held` are the addresses of all interfaces.
///
/// # Errors
/// The kernel could not be asked.
pub fn find(
    netlink: &Netlink,
    name: Option<&str>,
    addresses: &[IpAddr],
    held: &[Address],
) -> Result<Option<Uplink>, HostError> {
    if let Some(name) = name {
        return Ok(netlink.link(name)?.map(Uplink::from));
    }
    let holder = addresses
        .iter()
        .find_map(|wanted| held.iter().find(|address| address.address.addr() == *wanted));
    match holder {
        Some(address) => read(netlink, address.index),
        None => Ok(None),
    }
}

/// Returns `true` if an address of the node can be the end of traffic with a pod. Loopback addresses and IPv6 link-local
/// addresses cannot. IPv4 link-local addresses can: node-local DNS has 169.254.20.10.
#[must_use]
pub fn can_be_reached(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

/// Finds the interface of an index.
///
/// # Errors
/// The kernel could not be asked.
pub fn read(netlink: &Netlink, index: u32) -> Result<Option<Uplink>, HostError> {
    Ok(netlink.link_at(index)?.map(Uplink::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_only_one_link_or_the_node_itself_can_use_are_left_out() {
        let reached = |text: &str| can_be_reached(text.parse().unwrap());
        assert!(reached("192.0.2.1") && reached("169.254.20.10") && reached("2001:db8::1") && reached("fd00::1"));
        assert!(!reached("127.0.0.1") && !reached("127.1.2.3") && !reached("::1") && !reached("fe80::1"));
    }
}
