//! Notifications of the kernel about changes of its network configuration.
//!
//! A [`Monitor`] shows that something has changed. Its reader then dumps the state that it needs, because notifications can be
//! lost (ENOBUFS) and a dump is always complete. Only the notifications about neighbors are decoded: the kernel sends one each
//! time that it verifies a neighbor, and most of them change nothing that a reader needs.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::libc::{
    NFNLGRP_NFTABLES, RTM_DELNEIGH, RTM_NEWNEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_NETCONF, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE, RTNLGRP_LINK,
    RTNLGRP_NEIGH,
};

use crate::error::LinuxError;
use crate::neighbor::NeighborEntry;

/// The groups of rtnetlink whose notifications [`Monitor::network`] receives.
const NETWORK: &[u32] = &[
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_IPV6_NETCONF,
    RTNLGRP_NEXTHOP,
];
/// The group of nexthop objects (`ip nexthop`), which routes may refer to (include/uapi/linux/rtnetlink.h).
const RTNLGRP_NEXTHOP: u32 = 32;
/// The most bytes that are read of one notification. One about a neighbor has less than 200; the rest of others is discarded,
/// because they are not decoded.
const READ: usize = 512;
/// The bytes of a netlink message from the type to its end (`nlmsg_type` of `struct nlmsghdr`).
const TYPE: std::ops::Range<usize> = 4..6;

/// The changes that notifications announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `true` if something else than a neighbor has changed, or if notifications were lost, which may have been about neighbors
    /// too.
    pub others: bool,
    /// The neighbors that have changed, by interface index and address, as the newest notification describes them; `None` for a
    /// removed one.
    pub neighbors: BTreeMap<(u32, IpAddr), Option<NeighborEntry>>,
}

impl Changes {
    /// Returns `true` if nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.others && self.neighbors.is_empty()
    }

    /// Adds later changes.
    pub fn merge(&mut self, later: Self) {
        self.others |= later.others;
        self.neighbors.extend(later.neighbors);
    }

    /// Adds one notification.
    fn add(&mut self, notification: &[u8]) {
        let kind = notification.get(TYPE).and_then(|kind| kind.try_into().ok());
        let kind = kind.map(u16::from_ne_bytes);
        if kind != Some(RTM_NEWNEIGH) && kind != Some(RTM_DELNEIGH) {
            self.others = true;
            return;
        }
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(notification);
        match message.map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message))) => {
                if let Some(entry) = NeighborEntry::decode(&message) {
                    self.neighbors.insert((entry.index, entry.address), Some(entry));
                }
            }
            Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message))) => {
                if let Some(entry) = NeighborEntry::decode(&message) {
                    self.neighbors.insert((entry.index, entry.address), None);
                }
            }
            // It cannot be decoded, so anything may have changed.
            _ => self.others = true,
        }
    }
}

/// A socket that receives notifications. Its descriptor is readable when some have arrived.
#[derive(Debug)]
pub struct Monitor(Socket);

impl Monitor {
    /// Watches links, addresses, routes, policy rules, nexthop objects, neighbors and the sysctls of interfaces (netconf), in the
    /// namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn network() -> Result<Self, LinuxError> {
        Self::open(NETLINK_ROUTE, NETWORK).map_err(LinuxError::step("watching the network configuration"))
    }

    /// Watches the tables of nftables in the namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel gives no socket, for example because it has no nftables.
    pub fn nftables() -> Result<Self, LinuxError> {
        let group = u32::try_from(NFNLGRP_NFTABLES).unwrap_or_default();
        Self::open(NETLINK_NETFILTER, &[group]).map_err(LinuxError::step("watching the tables of nftables"))
    }

    fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        groups.iter().try_for_each(|group| socket.add_membership(*group))?;
        Ok(Self(socket))
    }

    /// Removes the notifications that have arrived and returns the changes that they announce.
    ///
    /// A monitor of nftables announces only [`Changes::others`].
    #[must_use]
    pub fn drain(&self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = Vec::with_capacity(READ);
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => changes.add(&buffer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return changes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Notifications were lost (ENOBUFS), or the socket cannot be read now: anything may have changed.
                Err(_) => {
                    changes.others = true;
                    return changes;
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
