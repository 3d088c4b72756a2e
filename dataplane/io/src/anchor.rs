//! The anchor: a private veth pair, to which the first socket of the UMEM is bound.
//!
//! libxdp binds every socket through the UMEM's first one and uses its flags. If the first one were a pod's, no port could be
//! opened after that pod's deletion. So the first one is bound to a device that has no other use.
//!
//! Anchors are numbered. An anchor in use is marked by an abstract unix socket. The socket belongs to the network namespace like
//! the device, and disappears when its process ends for any reason. So an anchor without its mark was left by a crash.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use heddle_linux::{Link, LinuxError, Netlink, VethPair, link_index};

use crate::error::XdpError;

/// The MTU of a private veth pair; the kernel's default for Ethernet devices.
const ETHERNET_MTU: u32 = 1500;
/// The limit of anchors in a namespace. One agent runs in each, and during a takeover a second one.
const MOST: u32 = 16;

/// The anchor's device. Dropping it deletes the device.
#[derive(Debug)]
pub(crate) struct Anchor {
    name: String,
    device: Link,
    /// The socket that marks the anchor as in use.
    _mark: UnixDatagram,
}

/// Returns the name of an anchor's device.
fn name(number: u32) -> String {
    format!("hdanchor{number}")
}

/// Marks an anchor as in use. Returns `None` if another process has marked it.
fn mark(number: u32) -> io::Result<Option<UnixDatagram>> {
    let address = SocketAddr::from_abstract_name(format!("heddle/{}", name(number)))?;
    match UnixDatagram::bind_addr(&address) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

impl Anchor {
    /// Removes the anchors that crashed agents left in this network namespace, and makes an anchor.
    pub(crate) fn new() -> Result<Self, XdpError> {
        let failed = |what: &'static str| move |error: io::Error| XdpError::kernel(what, error);
        let refused = |what: &'static str| move |error: LinuxError| XdpError::kernel(what, error.source);
        let netlink = Netlink::open().map_err(refused("open a netlink socket"))?;
        let mut free = None;
        for number in 0..MOST {
            let Some(mark) = mark(number).map_err(failed("mark the anchor device"))? else {
                continue;
            };
            let leftover = netlink
                .link(&name(number))
                .map_err(refused("look for an earlier agent's anchor device"))?;
            if let Some(leftover) = leftover {
                tracing::info!(device = leftover.name, "removing the anchor that an earlier agent left");
                netlink
                    .delete_link(&leftover)
                    .map_err(refused("delete an earlier agent's anchor device"))?;
            }
            free.get_or_insert((number, mark));
        }
        let Some((number, mark)) = free else {
            return Err(XdpError::kernel(
                "make an anchor device",
                io::Error::other("16 agents run in this namespace"),
            ));
        };
        let name = name(number);
        let device = add_veth(&netlink, &name, &format!("{name}p")).map_err(refused("make the anchor's veth pair"))?;
        Ok(Self {
            name,
            device,
            _mark: mark,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if the device is known to be gone. Returns false if the kernel cannot be asked.
    pub(crate) fn is_gone(&self) -> bool {
        link_index(&self.name).is_ok_and(|index| index != Some(self.device.index))
    }
}

/// Creates a veth pair and sets both ends up; an end cannot be set up before the other one exists. Returns the first end.
pub(crate) fn add_veth(netlink: &Netlink, name: &str, peer: &str) -> Result<Link, LinuxError> {
    netlink.add_veth(&VethPair {
        name,
        peer,
        queues: 1,
        mtu: ETHERNET_MTU,
        peer_netns: None,
        peer_mac: None,
    })?;
    let end = |name: &str| {
        let missing = || LinuxError::step(format!("finding interface {name}"))(io::ErrorKind::NotFound.into());
        netlink.link(name)?.ok_or_else(missing)
    };
    let (first, second) = (end(name)?, end(peer)?);
    netlink.set_up(&first)?;
    netlink.set_up(&second)?;
    Ok(first)
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // Delete only by name and index: in another namespace the index may be another device's.
        let deleted = || match link_index(&self.name)? {
            Some(index) if index == self.device.index => Netlink::open()?.delete_link(&self.device),
            _ => Ok(false),
        };
        if let Err(error) = deleted() {
            tracing::warn!(device = self.name, %error, "the anchor device stays behind");
        }
    }
}
