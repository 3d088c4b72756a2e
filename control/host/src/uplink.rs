//! The uplink: the interface with the node's InternalIP. heddle only reads its MTU; it neither changes the interface nor
//! receives its packets.

use std::net::IpAddr;

use heddle_linux::{Link, Netlink};

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
/// that any interface has decides.
///
/// # Errors
/// The kernel could not be asked.
pub fn find(netlink: &Netlink, name: Option<&str>, addresses: &[IpAddr]) -> Result<Option<Uplink>, HostError> {
    if let Some(name) = name {
        return Ok(netlink.link(name)?.map(Uplink::from));
    }
    let held = netlink.addresses()?;
    let holder = addresses
        .iter()
        .find_map(|wanted| held.iter().find(|address| address.address.addr() == *wanted));
    match holder {
        Some(address) => read(netlink, address.index),
        None => Ok(None),
    }
}

/// Finds the interface of an index.
///
/// # Errors
/// The kernel could not be asked.
pub fn read(netlink: &Netlink, index: u32) -> Result<Option<Uplink>, HostError> {
    Ok(netlink.link_at(index)?.map(Uplink::from))
}
