//! The anchor: a private veth pair, to which the first socket of the UMEM is bound.
//!
//! libxdp binds every socket through the UMEM's first one and uses its flags. If the first one were a pod's, no port could be
//! opened after that pod's deletion. So the first one is bound to a device that has no other use.
//!
//! A network namespace has one anchor, because it has one agent: an agent takes the namespace's lock before it makes an
//! [`XdpContext`](crate::XdpContext). So an anchor that exists already was left by a crash. Anchors have no mark of being in use.
//! Any process of the node could hold a mark that has a name, such as an abstract socket.

use std::io;

use heddle_linux::{Link, LinuxError, Netlink, VethPair, link_index};

use crate::error::XdpError;

/// The MTU of a private veth pair; the kernel's default for Ethernet devices.
const ETHERNET_MTU: u32 = 1500;
/// The name of the anchor's device.
const NAME: &str = "hdanchor0";
/// The name of the device's other end.
const PEER: &str = "hdanchor0p";

/// The anchor's device. Dropping it deletes the device.
#[derive(Debug)]
pub(crate) struct Anchor {
    device: Link,
}

impl Anchor {
    /// Removes the anchor that a crashed agent left in this network namespace, and makes an anchor.
    pub(crate) fn new() -> Result<Self, XdpError> {
        let refused = |what: &'static str| move |error: LinuxError| XdpError::kernel(what, error.source);
        let netlink = Netlink::open().map_err(refused("open a netlink socket"))?;
        let leftover = netlink
            .link(NAME)
            .map_err(refused("look for an earlier agent's anchor device"))?;
        if let Some(leftover) = leftover {
            tracing::info!(device = leftover.name, "removing the anchor that an earlier agent left");
            netlink
                .delete_link(&leftover)
                .map_err(refused("delete an earlier agent's anchor device"))?;
        }
        let device = add_veth(&netlink, NAME, PEER).map_err(refused("make the anchor's veth pair"))?;
        Ok(Self { device })
    }

    pub(crate) fn name(&self) -> &str {
        &self.device.name
    }

    /// Returns true if the device is known to be gone. Returns false if the kernel cannot be asked.
    pub(crate) fn is_gone(&self) -> bool {
        link_index(NAME).is_ok_and(|index| index != Some(self.device.index))
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
        let deleted = || match link_index(NAME)? {
            Some(index) if index == self.device.index => Netlink::open()?.delete_link(&self.device),
            _ => Ok(false),
        };
        if let Err(error) = deleted() {
            tracing::warn!(device = NAME, %error, "the anchor device stays behind");
        }
    }
}
