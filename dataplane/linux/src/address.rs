//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::EADDRNOTAVAIL;

use crate::error::{LinuxError, absent_is_none};
use crate::link::Link;
use crate::netlink::Netlink;

/// An interface's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub index: u32,
    /// The address with its prefix.
    pub address: IpNet,
    /// `true` for a link-local address (scope link).
    pub link_scope: bool,
}

impl Address {
    fn decode(message: &AddressMessage) -> Option<Self> {
        // For IPv4, IFA_ADDRESS is the other end of a point-to-point interface; IFA_LOCAL is the interface's own address.
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            address: IpNet::new(local.or(address)?, message.header.prefix_len).ok()?,
            link_scope: message.header.scope == AddressScope::Link,
        })
    }
}

/// Addresses.
impl Netlink {
    /// Lists the addresses of all interfaces.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn addresses(&self) -> Result<Vec<Address>, LinuxError> {
        let messages = self
            .dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(LinuxError::step("listing the addresses"))?;
        let addresses = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) => Address::decode(address),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Lists the addresses of an interface.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn addresses_of(&self, link: &Link) -> Result<Vec<Address>, LinuxError> {
        let mut addresses = self.addresses()?;
        addresses.retain(|address| address.index == link.index);
        Ok(addresses)
    }

    /// Adds an address, an IPv6 one without duplicate address detection, so that it is usable at once.
    ///
    /// # Errors
    /// The kernel refuses, for example because the interface has the address.
    pub fn add_address(&self, link: &Link, address: IpNet) -> Result<(), LinuxError> {
        let mut message = message_for(link, address);
        if address.addr().is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(LinuxError::step(format!(
                "adding address {address} to interface {}",
                link.name
            )))
    }

    /// Removes an address and returns `false` if the interface does not have it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_address(&self, link: &Link, address: IpNet) -> Result<bool, LinuxError> {
        let removed = self.change(RouteNetlinkMessage::DelAddress(message_for(link, address)), 0);
        absent_is_none(removed, &[EADDRNOTAVAIL])
            .map(|removed| removed.is_some())
            .map_err(LinuxError::step(format!(
                "removing address {address} from interface {}",
                link.name
            )))
    }
}

fn message_for(link: &Link, address: IpNet) -> AddressMessage {
    let ip: IpAddr = address.addr();
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.prefix_len = address.prefix_len();
    message.header.index = link.index;
    message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip)];
    message
}
