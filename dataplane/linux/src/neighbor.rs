//! Permanent neighbors: addresses whose Ethernet address is set, not learned.

use std::net::IpAddr;

use heddle_wire::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::LinuxError;
use crate::link::Link;
use crate::netlink::Netlink;

/// A permanent neighbor of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The IP address.
    pub address: IpAddr,
    /// The Ethernet address.
    pub mac: MacAddr,
}

impl Neighbor {
    fn decode(message: &NeighbourMessage) -> Option<Self> {
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
                NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.as_slice().try_into().ok().map(MacAddr),
                _ => {}
            }
        }
        Some(Self {
            address: address?,
            mac: mac?,
        })
    }
}

/// Neighbors.
impl Netlink {
    /// Sets a permanent neighbor, in place of any entry of that address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_neighbor(&self, link: &Link, neighbor: Neighbor) -> Result<(), LinuxError> {
        let Neighbor { address, mac } = neighbor;
        let mut message = NeighbourMessage::default();
        message.header.ifindex = link.index;
        message.header.state = NeighbourState::Permanent;
        let destination = match address {
            IpAddr::V4(ip) => {
                message.header.family = AddressFamily::Inet;
                NeighbourAddress::Inet(ip)
            }
            IpAddr::V6(ip) => {
                message.header.family = AddressFamily::Inet6;
                NeighbourAddress::Inet6(ip)
            }
        };
        message.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(LinuxError::step(format!(
                "setting neighbor {address} with {mac} on interface {}",
                link.name
            )))
    }

    /// Lists the permanent neighbors of an interface.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn neighbors_of(&self, link: &Link) -> Result<Vec<Neighbor>, LinuxError> {
        let messages = self
            .dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))
            .map_err(LinuxError::step(format!(
                "listing the neighbors of interface {}",
                link.name
            )))?;
        let neighbors = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbor)
                if neighbor.header.ifindex == link.index && neighbor.header.state == NeighbourState::Permanent =>
            {
                Neighbor::decode(neighbor)
            }
            _ => None,
        });
        Ok(neighbors.collect())
    }
}
