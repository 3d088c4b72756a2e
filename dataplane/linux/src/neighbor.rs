//! Neighbors: the Ethernet addresses of the hosts on a link.
//!
//! A [`Neighbor`] is one whose Ethernet address is set, not learned (a permanent entry). A [`NeighborEntry`] is any entry of the
//! kernel's tables, as it is now. A managed entry is one that the kernel resolves and keeps fresh without traffic
//! ([`Netlink::manage_neighbor`]).

use std::net::IpAddr;

use heddle_wire::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::{ENODEV, ENOENT};

use crate::error::{LinuxError, absent_is_none};
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

/// The state of a neighbor entry (`NUD_*`, include/uapi/linux/neighbour.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborState {
    /// No state yet (`NUD_NONE`), or one that this program does not know.
    None,
    /// The kernel has asked and has no answer yet.
    Incomplete,
    /// The neighbor has answered recently.
    Reachable,
    /// The neighbor has not been verified for a while.
    Stale,
    /// The neighbor is used while unverified, and the kernel will ask soon.
    Delay,
    /// The kernel asks again.
    Probe,
    /// The neighbor does not answer.
    Failed,
    /// The neighbor needs no verification.
    NoArp,
    /// The neighbor was set by somebody and is never verified.
    Permanent,
}

impl NeighborState {
    const fn decode(state: NeighbourState) -> Self {
        match state {
            NeighbourState::Incomplete => Self::Incomplete,
            NeighbourState::Reachable => Self::Reachable,
            NeighbourState::Stale => Self::Stale,
            NeighbourState::Delay => Self::Delay,
            NeighbourState::Probe => Self::Probe,
            NeighbourState::Failed => Self::Failed,
            NeighbourState::Noarp => Self::NoArp,
            NeighbourState::Permanent => Self::Permanent,
            _ => Self::None,
        }
    }

    /// Returns `true` if the kernel sends packets to the entry's Ethernet address in this state (`NUD_VALID`).
    #[must_use]
    pub const fn is_usable(self) -> bool {
        match self {
            Self::Reachable | Self::Stale | Self::Delay | Self::Probe | Self::NoArp | Self::Permanent => true,
            Self::None | Self::Incomplete | Self::Failed => false,
        }
    }
}

/// An entry of the kernel's neighbor tables: ARP for IPv4, neighbor discovery for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborEntry {
    /// The interface's index.
    pub index: u32,
    /// The IP address.
    pub address: IpAddr,
    /// The Ethernet address; a failed entry may still have its last one. See [`NeighborEntry::usable_mac`].
    pub mac: Option<MacAddr>,
    /// The state.
    pub state: NeighborState,
    /// `true` if the kernel keeps the entry fresh without traffic (`NTF_EXT_MANAGED`).
    pub managed: bool,
    /// `true` if a program has set the entry and the kernel never removes it to make room (`NTF_EXT_LEARNED`).
    pub ext_learned: bool,
    /// The number of the program that set the entry (`RTPROT_*`); 0 if none was given.
    pub protocol: u8,
}

impl NeighborEntry {
    /// Returns the Ethernet address that packets for the neighbor can be sent to now.
    #[must_use]
    pub fn usable_mac(&self) -> Option<MacAddr> {
        self.mac.filter(|mac| self.state.is_usable() && mac.0 != [0; 6])
    }

    /// Decodes an entry of one host; `None` for entries of bridges, and for multicast and broadcast addresses.
    pub(crate) fn decode(message: &NeighbourMessage) -> Option<Self> {
        let header = &message.header;
        let is_ip = matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6);
        if !is_ip || matches!(header.kind, RouteType::Multicast | RouteType::Broadcast) {
            return None;
        }
        let (mut address, mut mac, mut managed, mut protocol) = (None, None, false, 0);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
                NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.as_slice().try_into().ok().map(MacAddr),
                NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
                NeighbourAttribute::Protocol(number) => protocol = (*number).into(),
                _ => {}
            }
        }
        Some(Self {
            index: header.ifindex,
            address: address?,
            mac,
            state: NeighborState::decode(header.state),
            managed,
            ext_learned: header.flags.contains(NeighbourFlags::ExtLearned),
            protocol,
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
        let mut message = message_for(link.index, address);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
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
        let mut query = NeighbourMessage::default();
        // The kernel leaves out other interfaces, which may have thousands of entries (neigh_valid_dump_req).
        query.attributes.push(NeighbourAttribute::IfIndex(link.index));
        let entries = self.dump_neighbors(query).map_err(LinuxError::step(format!(
            "listing the neighbors of interface {}",
            link.name
        )))?;
        let permanent = entries
            .into_iter()
            .filter(|entry| entry.index == link.index && entry.state == NeighborState::Permanent);
        Ok(permanent
            .filter_map(|entry| {
                Some(Neighbor {
                    address: entry.address,
                    mac: entry.mac?,
                })
            })
            .collect())
    }

    /// Lists the neighbor entries of all interfaces, of both families.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn neighbors(&self) -> Result<Vec<NeighborEntry>, LinuxError> {
        self.dump_neighbors(NeighbourMessage::default())
            .map_err(LinuxError::step("listing the neighbors"))
    }

    fn dump_neighbors(&self, query: NeighbourMessage) -> std::io::Result<Vec<NeighborEntry>> {
        let messages = self.dump(&RouteNetlinkMessage::GetNeighbour(query))?;
        let entries = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbor) => NeighborEntry::decode(neighbor),
            _ => None,
        });
        Ok(entries.collect())
    }

    /// Makes the kernel resolve a neighbor at once and keep it fresh without traffic, in the name of program `protocol`.
    ///
    /// The entry gets `NTF_EXT_MANAGED` (kernel 5.16 and later) and `NTF_EXT_LEARNED`. The second flag exempts it from the
    /// collection of unused entries and from the table's limit `gc_thresh3` (neigh_alloc in net/core/neighbour.c), so thousands of
    /// entries fit. An entry that exists keeps its Ethernet address and its state, but **a permanent one becomes an ordinary one**
    /// (`__neigh_update`). With `is_new` an existing entry is therefore an error and stays as it is.
    ///
    /// # Errors
    /// The kernel refuses: there is an entry (EEXIST, with `is_new`), the table is full or memory is short (ENOBUFS), or the
    /// interface has no IP version of that family (EINVAL) or is gone (ENODEV).
    pub fn manage_neighbor(&self, index: u32, address: IpAddr, protocol: u8, is_new: bool) -> Result<(), LinuxError> {
        let mut message = message_for(index, address);
        message.header.flags = NeighbourFlags::ExtLearned;
        message.attributes.extend([
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(RouteProtocol::from(protocol)),
        ]);
        let flags = if is_new {
            NLM_F_CREATE | NLM_F_EXCL
        } else {
            NLM_F_CREATE
        };
        self.change(RouteNetlinkMessage::NewNeighbour(message), flags)
            .map_err(LinuxError::step(format!(
                "setting the managed neighbor {address} on interface {index}"
            )))
    }

    /// Removes a neighbor entry and returns `false` if there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_neighbor(&self, index: u32, address: IpAddr) -> Result<bool, LinuxError> {
        let removed = self.change(RouteNetlinkMessage::DelNeighbour(message_for(index, address)), 0);
        absent_is_none(removed, &[ENOENT, ENODEV])
            .map(|removed| removed.is_some())
            .map_err(LinuxError::step(format!(
                "removing the neighbor {address} of interface {index}"
            )))
    }
}

/// Returns a message about an entry of one address, without state and flags.
fn message_for(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
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
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: NeighbourState) -> NeighbourMessage {
        let mut message = message_for(7, IpAddr::from([10, 0, 0, 9]));
        message.header.state = state;
        message.header.kind = RouteType::Unicast;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]));
        message
    }

    #[test]
    fn only_valid_states_have_a_usable_mac() {
        let usable = |state| NeighborEntry::decode(&message(state)).unwrap().usable_mac();
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
        for state in [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Delay,
            NeighbourState::Probe,
            NeighbourState::Noarp,
            NeighbourState::Permanent,
        ] {
            assert_eq!(usable(state), mac, "{state:?}");
        }
        for state in [
            NeighbourState::None,
            NeighbourState::Incomplete,
            NeighbourState::Failed,
            NeighbourState::Other(3),
        ] {
            assert_eq!(usable(state), None, "{state:?}");
        }
    }

    #[test]
    fn an_ethernet_address_of_zeros_or_of_another_length_is_not_usable() {
        for octets in [vec![0; 6], vec![10, 0, 0, 1], Vec::new()] {
            let mut message = message(NeighbourState::Noarp);
            message.attributes.pop();
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(octets));
            assert_eq!(NeighborEntry::decode(&message).unwrap().usable_mac(), None);
        }
    }

    #[test]
    fn bridges_and_groups_are_left_out() {
        for kind in [RouteType::Multicast, RouteType::Broadcast] {
            let mut message = message(NeighbourState::Noarp);
            message.header.kind = kind;
            assert_eq!(NeighborEntry::decode(&message), None);
        }
        let mut message = message(NeighbourState::Permanent);
        message.header.family = AddressFamily::Bridge;
        assert_eq!(NeighborEntry::decode(&message), None);
    }

    #[test]
    fn flags_and_protocol_are_decoded() {
        let mut message = message(NeighbourState::Reachable);
        let plain = NeighborEntry::decode(&message).unwrap();
        assert_eq!((plain.managed, plain.ext_learned, plain.protocol), (false, false, 0));
        message.header.flags = NeighbourFlags::ExtLearned;
        message.attributes.extend([
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(RouteProtocol::from(104)),
        ]);
        let ours = NeighborEntry::decode(&message).unwrap();
        assert_eq!((ours.managed, ours.ext_learned, ours.protocol), (true, true, 104));
    }
}
