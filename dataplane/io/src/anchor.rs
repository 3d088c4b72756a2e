//! The anchor: a private veth pair whose device the first socket of the UMEM is bound to.
//!
//! libxdp binds every socket through the UMEM's first one and takes its flags over. Were the first one a pod's, no port
//! could be opened any more once that pod is gone. So the first is bound to a device that nobody else has a reason to
//! delete.
//!
//! Anchors are numbered. A living one is marked by an abstract unix socket, which belongs to the network namespace as the
//! device does and goes when its process ends in whatever way; so an anchor without its mark was left by a crash.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::error::XdpError;
use crate::netlink;

/// Anchors that are looked for in a namespace. One agent runs in each, a second one only while it takes over.
const MOST: u32 = 16;

/// The device. Dropping it deletes it.
#[derive(Debug)]
pub(crate) struct Anchor {
    name: String,
    index: u32,
    /// Lasts as long as the anchor does.
    _mark: UnixDatagram,
}

fn name(number: u32) -> String {
    format!("hdanchor{number}")
}

fn mark(number: u32) -> io::Result<Option<UnixDatagram>> {
    let address = SocketAddr::from_abstract_name(format!("heddle/{}", name(number)))?;
    match UnixDatagram::bind_addr(&address) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

impl Anchor {
    /// Removes what crashed agents left in this network namespace, and makes an anchor.
    pub(crate) fn new() -> Result<Self, XdpError> {
        let failed = |what: &'static str| move |error: io::Error| XdpError::kernel(what, error);
        let mut free = None;
        for number in 0..MOST {
            let Some(mark) = mark(number).map_err(failed("mark the anchor device"))? else {
                continue;
            };
            if let Some(index) = netlink::index_of(&name(number)) {
                tracing::info!(device = name(number), "removing the anchor that an earlier agent left");
                netlink::delete(index).map_err(failed("delete an earlier agent's anchor device"))?;
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
        netlink::add_veth(&name, &format!("{name}p")).map_err(failed("make the anchor's veth pair"))?;
        let index = netlink::index_of(&name)
            .ok_or_else(|| XdpError::kernel("find the anchor device", io::Error::from_raw_os_error(libc::ENODEV)))?;
        Ok(Self {
            name,
            index,
            _mark: mark,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the device is still there.
    pub(crate) fn exists(&self) -> bool {
        netlink::index_of(&self.name) == Some(self.index)
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // From a thread in another namespace the name is not found, and the index may be another device's.
        if self.exists()
            && let Err(error) = netlink::delete(self.index)
        {
            tracing::warn!(device = self.name, %error, "the anchor device stays behind");
        }
    }
}
