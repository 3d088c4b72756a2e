//! Notifications of the kernel about changes of its network configuration.
//!
//! A [`Monitor`] shows only that something has changed. Its reader then dumps the state that it needs, because notifications can
//! be lost (ENOBUFS) and a dump is always complete.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::libc::{
    NFNLGRP_NFTABLES, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_NETCONF, RTNLGRP_IPV6_ROUTE, RTNLGRP_LINK, RTNLGRP_NEIGH,
};

use crate::error::LinuxError;

/// The groups of rtnetlink whose notifications [`Monitor::network`] receives.
const NETWORK: &[u32] = &[
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_NETCONF,
];
/// The most bytes that are read of one notification. The rest is discarded, because notifications are not decoded.
const READ: usize = 64;

/// A socket that receives notifications. Its descriptor is readable when some have arrived.
#[derive(Debug)]
pub struct Monitor(Socket);

impl Monitor {
    /// Watches links, addresses, routes, neighbors and the sysctls of interfaces (netconf), in the namespace of the calling
    /// thread.
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

    /// Removes the notifications that have arrived and returns `true` if there was any, or if some were lost.
    #[must_use]
    pub fn drain(&self) -> bool {
        let mut changed = false;
        loop {
            let mut buffer = Vec::with_capacity(READ);
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => changed = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return changed,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Notifications were lost (ENOBUFS), or the socket cannot be read now: the state may have changed.
                Err(_) => return true,
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
