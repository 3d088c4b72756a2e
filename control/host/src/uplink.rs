//! The uplink: the interface with the node's InternalIP, of which heddle wants to know the MTU.
//!
//! Nothing of it is changed here, and no packet of it is seen.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use rtnetlink::Handle;

use crate::error::HostError;
use crate::links;
use crate::netlink::{failed, is_errno};

/// The uplink as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its interface index.
    pub index: u32,
    /// Its MTU, 65,535 where the kernel's is larger (that of `lo` is).
    pub mtu: u16,
}

/// The interface of that name, or the one with one of these addresses, the first that is found.
///
/// # Errors
/// The kernel refuses to tell.
pub async fn find(handle: &Handle, name: Option<&str>, addresses: &[IpAddr]) -> Result<Option<Uplink>, HostError> {
    let index = match name {
        Some(name) => links::index_of(handle, name).await?,
        None => holder(handle, addresses).await?,
    };
    match index {
        Some(index) => read(handle, index).await,
        None => Ok(None),
    }
}

/// The interface of an index.
///
/// # Errors
/// The kernel refuses to tell.
pub async fn read(handle: &Handle, index: u32) -> Result<Option<Uplink>, HostError> {
    let link = match handle.link().get().match_index(index).execute().try_next().await {
        Ok(Some(link)) => link,
        Ok(None) => return Ok(None),
        Err(e) if is_errno(&e, Errno::ENODEV) => return Ok(None),
        Err(e) => return Err(failed(format!("reading interface {index}"))(e)),
    };
    let (mut name, mut mtu) = (String::new(), 0);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(n) => name = n,
            LinkAttribute::Mtu(n) => mtu = n,
            _ => {}
        }
    }
    Ok(Some(Uplink {
        name,
        index,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
    }))
}

/// Who has one of the addresses; the earlier ones count more.
async fn holder(handle: &Handle, addresses: &[IpAddr]) -> Result<Option<u32>, HostError> {
    let wanted: BTreeSet<&IpAddr> = addresses.iter().collect();
    let mut best = None;
    let mut all = handle.address().get().execute();
    while let Some(message) = all.try_next().await.map_err(failed("reading addresses"))? {
        for attribute in &message.attributes {
            let (AddressAttribute::Address(ip) | AddressAttribute::Local(ip)) = attribute else {
                continue;
            };
            if !wanted.contains(ip) {
                continue;
            }
            let rank = addresses.iter().position(|a| a == ip);
            if best.is_none_or(|(_, before)| rank < before) {
                best = Some((message.header.index, rank));
            }
        }
    }
    Ok(best.map(|(index, _)| index))
}
