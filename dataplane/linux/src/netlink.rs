//! A connection to rtnetlink(7).

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::error::LinuxError;
use crate::socket::Socket;

/// A connection to rtnetlink in the network namespace of the thread that opened it; it keeps that namespace when the
/// thread enters another one.
///
/// Its methods are grouped by file: [`crate::link`], [`crate::address`], [`crate::route`], [`crate::neighbor`].
#[derive(Debug)]
pub struct Netlink(Socket);

impl Netlink {
    /// Opens a connection.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, LinuxError> {
        Socket::open(NETLINK_ROUTE)
            .map(Self)
            .map_err(LinuxError::step("opening an rtnetlink socket"))
    }

    pub(crate) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.0.change(message, flags)
    }

    pub(crate) fn get(&self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.0.get(message)
    }

    pub(crate) fn dump(&self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.0.dump(message)
    }
}
