//! The host port's pair of interfaces, and the deletion of interfaces.

use heddle_linux::{Link, LinuxError, Netlink, VethPair, link_index};

use crate::error::HostError;

/// The two ends of a veth pair.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The node's end.
    pub link: Link,
    /// The dataplane's end.
    pub peer: Link,
}

/// Returns `true` if there is a veth of a name.
///
/// # Errors
/// The kernel could not be asked.
pub fn is_veth_named(netlink: &Netlink, name: &str) -> Result<bool, HostError> {
    Ok(netlink.link(name)?.is_some_and(|link| link.veth))
}

/// Returns the index of an interface of the calling thread's network namespace; `None` if there is no interface of that name.
/// The call never waits, so the control thread may make it.
///
/// # Errors
/// The kernel could not be asked, for example because no descriptor is left.
pub fn index(name: &str) -> Result<Option<u32>, HostError> {
    Ok(link_index(name)?)
}

/// Deletes an interface and returns `false` if there was none.
///
/// # Errors
/// The kernel refuses.
pub fn delete(netlink: &Netlink, name: &str) -> Result<bool, HostError> {
    match netlink.link(name)? {
        Some(link) => Ok(netlink.delete_link(&link)?),
        None => Ok(false),
    }
}

/// Creates a veth pair with this number of queues and this MTU, or takes over an existing pair with any MTU. A pair with
/// another number of queues is re-created, because the number of workers has changed.
///
/// # Errors
/// The kernel refuses, or one of the names belongs to an interface that is no veth.
pub fn ensure_pair(netlink: &Netlink, name: &str, peer: &str, queues: u32, mtu: u32) -> Result<Pair, HostError> {
    if let Some(pair) = existing_pair(netlink, name, peer, queues)? {
        return Ok(pair);
    }
    netlink.add_veth(&VethPair {
        name,
        peer,
        queues,
        mtu,
        peer_netns: None,
        peer_mac: None,
    })?;
    existing_pair(netlink, name, peer, queues)?.ok_or_else(|| {
        LinuxError::step(format!("finding the pair {name} and {peer}, which was just created"))(
            std::io::ErrorKind::NotFound.into(),
        )
        .into()
    })
}

/// Finds the pair. Deletes the remaining end of a broken pair, and a pair with another number of queues.
fn existing_pair(netlink: &Netlink, name: &str, peer: &str, queues: u32) -> Result<Option<Pair>, HostError> {
    let (link, peer_link) = (netlink.link(name)?, netlink.link(peer)?);
    if let Some(link) = [&link, &peer_link].into_iter().flatten().find(|link| !link.veth) {
        return Err(HostError::InTheWay(format!(
            "there is an interface {} that is no veth: it is not heddle's; rename or remove it",
            link.name
        )));
    }
    let fits = |link: &Link| (link.tx_queues, link.rx_queues) == (queues, queues);
    match (link, peer_link) {
        (Some(link), Some(peer)) if link.peer_index == Some(peer.index) && fits(&link) && fits(&peer) => {
            Ok(Some(Pair { link, peer }))
        }
        (link, peer_link) => {
            for link in [link, peer_link].into_iter().flatten() {
                netlink.delete_link(&link)?;
            }
            Ok(None)
        }
    }
}
