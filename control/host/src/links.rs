//! Interfaces and their addresses, by rtnetlink.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use heddle_wire::MacAddr;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use nix::errno::Errno;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::error::HostError;
use crate::netlink::{failed, is_errno};

/// A veth pair.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// The index of the first end.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The index of the other end.
    pub peer_index: u32,
}

/// The interface of a name, if there is one.
///
/// # Errors
/// The kernel refuses to tell.
pub async fn get(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, HostError> {
    let mut links = handle.link().get().match_name(name).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(e) if is_errno(&e, Errno::ENODEV) => Ok(None),
        Err(e) => Err(failed(format!("reading interface {name}"))(e)),
    }
}

/// The interface index of a name, if there is one.
///
/// # Errors
/// The kernel refuses to tell.
pub async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, HostError> {
    Ok(get(handle, name).await?.map(|link| link.header.index))
}

/// Whether there is a veth of a name.
///
/// # Errors
/// The kernel refuses to tell.
pub async fn is_veth_named(handle: &Handle, name: &str) -> Result<bool, HostError> {
    Ok(get(handle, name).await?.is_some_and(|link| is_veth(&link)))
}

/// Makes a veth pair with this many queues and this MTU, or takes over one of whatever MTU. One with other queues (the
/// number of workers has changed) is made anew.
///
/// # Errors
/// The kernel refuses, or one of the names belongs to something else.
pub async fn ensure_pair(handle: &Handle, name: &str, peer: &str, queues: u32, mtu: u32) -> Result<Pair, HostError> {
    if let Some(pair) = existing_pair(handle, name, peer, queues).await? {
        return Ok(pair);
    }
    let queue_attributes = [LinkAttribute::NumTxQueues(queues), LinkAttribute::NumRxQueues(queues)];
    let mut peer_end = LinkMessageBuilder::<LinkUnspec>::new().name(peer).mtu(mtu);
    let mut own_end = LinkVeth::new(name, peer).mtu(mtu);
    for attribute in queue_attributes {
        peer_end = peer_end.append_extra_attribute(attribute.clone());
        own_end = own_end.append_extra_attribute(attribute);
    }
    let message = own_end
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_end.build())))
        .build();
    handle.link().add(message).execute().await.map_err(failed(format!(
        "making the veth pair {name} and {peer} with {queues} queues"
    )))?;
    existing_pair(handle, name, peer, queues)
        .await?
        .ok_or_else(|| HostError::InTheWay(format!("the pair {name} and {peer} was made but is not there")))
}

async fn existing_pair(handle: &Handle, name: &str, peer: &str, queues: u32) -> Result<Option<Pair>, HostError> {
    let (own, other) = (get(handle, name).await?, get(handle, peer).await?);
    for (link, name) in [(&own, name), (&other, peer)] {
        if link.as_ref().is_some_and(|link| !is_veth(link)) {
            return Err(HostError::InTheWay(format!(
                "there is an interface {name} that is no veth: it is not heddle's; rename or remove it"
            )));
        }
    }
    let (Some(own), Some(other)) = (own, other) else {
        // Only one end under its name: a leftover that was half renamed.
        delete(handle, name).await?;
        delete(handle, peer).await?;
        return Ok(None);
    };
    let belong = peer_of(&own) == Some(other.header.index);
    if !belong || queues_of(&own) != Some((queues, queues)) || queues_of(&other) != Some((queues, queues)) {
        delete(handle, name).await?;
        delete(handle, peer).await?;
        return Ok(None);
    }
    let mac = mac_of(&own).ok_or_else(|| HostError::InTheWay(format!("interface {name} has no Ethernet address")))?;
    Ok(Some(Pair {
        index: own.header.index,
        mac,
        peer_index: other.header.index,
    }))
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|a| matches!(a, LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Veth))))
}

fn peer_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| {
        if let LinkAttribute::Link(index) = a {
            Some(*index)
        } else {
            None
        }
    })
}

fn queues_of(link: &LinkMessage) -> Option<(u32, u32)> {
    let tx = link.attributes.iter().find_map(|a| {
        if let LinkAttribute::NumTxQueues(n) = a {
            Some(*n)
        } else {
            None
        }
    });
    let rx = link.attributes.iter().find_map(|a| {
        if let LinkAttribute::NumRxQueues(n) = a {
            Some(*n)
        } else {
            None
        }
    });
    Some((tx?, rx?))
}

/// An interface's Ethernet address.
#[must_use]
pub fn mac_of(link: &LinkMessage) -> Option<MacAddr> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(octets) => octets.as_slice().try_into().ok().map(MacAddr),
        _ => None,
    })
}

/// Deletes an interface; whether there was one.
///
/// # Errors
/// The kernel refuses.
pub async fn delete(handle: &Handle, name: &str) -> Result<bool, HostError> {
    let Some(index) = index_of(handle, name).await? else {
        return Ok(false);
    };
    match handle.link().del(index).execute().await {
        Ok(()) => Ok(true),
        // The other end of a pair was deleted just before.
        Err(e) if is_errno(&e, Errno::ENODEV) => Ok(false),
        Err(e) => Err(failed(format!("deleting interface {name}"))(e)),
    }
}

/// Sets an interface's MTU.
///
/// # Errors
/// The kernel refuses.
pub async fn set_mtu(handle: &Handle, index: u32, name: &str, mtu: u32) -> Result<(), HostError> {
    let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(failed(format!("setting MTU {mtu} on {name}")))
}

/// Sets an interface up.
///
/// # Errors
/// The kernel refuses.
pub async fn set_up(handle: &Handle, index: u32) -> Result<(), HostError> {
    let message = LinkUnspec::new_with_index(index).up().build();
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(failed(format!("setting interface {index} up")))
}

/// The addresses of an interface, those of link scope left out.
///
/// # Errors
/// The kernel refuses to tell.
pub async fn addresses(handle: &Handle, index: u32) -> Result<BTreeSet<IpAddr>, HostError> {
    let mut found = BTreeSet::new();
    let mut all = handle.address().get().set_link_index_filter(index).execute();
    while let Some(message) = all.try_next().await.map_err(failed("reading addresses"))? {
        if message.header.scope == AddressScope::Link {
            continue;
        }
        found.extend(message.attributes.iter().find_map(|a| {
            if let AddressAttribute::Address(ip) = a {
                Some(*ip)
            } else {
                None
            }
        }));
    }
    Ok(found)
}

/// Adds an address with the full prefix, without duplicate address detection.
///
/// # Errors
/// The kernel refuses.
pub async fn add_address(handle: &Handle, index: u32, address: IpAddr) -> Result<(), HostError> {
    let mut request = handle.address().add(index, address, full_prefix(address)).replace();
    if address.is_ipv6() {
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request
        .execute()
        .await
        .map_err(failed(format!("adding address {address} to interface {index}")))
}

/// Removes an address.
///
/// # Errors
/// The kernel refuses.
pub async fn remove_address(handle: &Handle, index: u32, address: IpAddr) -> Result<(), HostError> {
    let mut request = handle.address().add(index, address, full_prefix(address));
    let message = request.message_mut().clone();
    match handle.address().del(message).execute().await {
        Ok(()) => Ok(()),
        Err(e) if is_errno(&e, Errno::EADDRNOTAVAIL) => Ok(()),
        Err(e) => Err(failed(format!("removing address {address} of interface {index}"))(e)),
    }
}

/// 32 or 128.
pub(crate) const fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
