//! The uplink: the interface with the node's InternalIP. heddle only reads it; it neither changes the interface nor receives its
//! packets.

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
            mtu: mtu_of(&link),
            name: link.name,
            index: link.index,
        }
    }
}

/// Returns an interface's MTU in bytes; 65,535, the longest IPv4 packet, if it is larger.
pub(crate) fn mtu_of(link: &Link) -> u16 {
    u16::try_from(link.mtu).unwrap_or(u16::MAX)
}

/// The search for the uplink.
#[derive(Debug)]
pub(crate) struct Finder {
    /// The configured name.
    name: Option<String>,
    /// The index of the interface that was found last.
    known: Option<u32>,
}

impl Finder {
    pub(crate) const fn new(name: Option<String>) -> Self {
        Self { name, known: None }
    }

    /// Finds the interface with the configured name. Without a name, finds the interface that has one of the node's addresses; the
    /// first address that any interface has decides. While no interface has one, for example while a DHCP client renews it, the
    /// uplink stays the interface that it was. `held` are the addresses of all interfaces.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub(crate) fn find(
        &mut self,
        netlink: &Netlink,
        addresses: &[IpAddr],
        held: &[Address],
    ) -> Result<Option<Link>, HostError> {
        let found = match &self.name {
            Some(name) => netlink.link(name)?,
            None => match holder_of(addresses, held) {
                Some(index) => netlink.link_at(index)?,
                None => None,
            },
        };
        let found = match (found, self.known) {
            (None, Some(known)) => netlink.link_at(known)?,
            (found, _) => found,
        };
        self.known = found.as_ref().map(|link| link.index);
        Ok(found)
    }
}

/// Returns the index of the interface that has the first of the addresses that any interface has.
fn holder_of(addresses: &[IpAddr], held: &[Address]) -> Option<u32> {
    addresses
        .iter()
        .find_map(|wanted| held.iter().find(|address| address.address.addr() == *wanted))
        .map(|address| address.index)
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
