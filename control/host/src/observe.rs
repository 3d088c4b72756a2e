//! Reads the node's kernel state at the host port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use heddle_linux::{Link, Neighbor, Netlink, Route};
use ipnet::IpNet;

use crate::error::HostError;
use crate::sysctl::{self, SysctlValue};
use crate::well_known::{INTERFACE, PEER, gateway_of};

/// The protocol number that marks heddle's routes (`h`; not in iproute2's rt_protos).
pub const ROUTE_PROTOCOL: u8 = 104;

/// The kernel's state at the host port.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The node's end; `None` if there is no interface of its name.
    pub link: Option<Link>,
    /// The dataplane's end.
    pub peer: Option<Link>,
    /// The addresses of the node's end, without link-local ones.
    pub addresses: Vec<IpNet>,
    /// The permanent neighbor entries of the node's end.
    pub neighbors: Vec<Neighbor>,
    /// heddle's routes by the node's end, with their preferred sources.
    pub routes: BTreeMap<IpNet, Option<IpAddr>>,
    /// The sysctls of both ends that heddle sets.
    pub sysctls: Vec<SysctlValue>,
}

/// Reads the kernel's state. The nftables table is not part of it: it is listed by a child process
/// ([`crate::Nft::list`]), which must not delay the rest.
///
/// # Errors
/// The kernel could not be asked.
pub fn observe(netlink: &Netlink) -> Result<Observed, HostError> {
    let (link, peer) = (netlink.link(INTERFACE)?, netlink.link(PEER)?);
    let mut observed = Observed {
        addresses: Vec::new(),
        neighbors: Vec::new(),
        routes: BTreeMap::new(),
        sysctls: Vec::new(),
        link,
        peer,
    };
    let Some(link) = &observed.link else {
        return Ok(observed);
    };
    let addresses = netlink.addresses_of(link)?;
    observed.addresses = addresses
        .iter()
        .filter(|address| !address.link_scope)
        .map(|address| address.address)
        .collect();
    observed.neighbors = netlink.neighbors_of(link)?;
    let routes = netlink.routes()?;
    observed.routes = routes
        .iter()
        .filter(|route| route.protocol == ROUTE_PROTOCOL && route.index == link.index)
        .map(|route| (route.destination, route.source))
        .collect();
    observed.sysctls = sysctl::read_ends()?;
    Ok(observed)
}

/// Returns heddle's route to a range by an interface.
pub(crate) fn route(link: &Link, destination: IpNet, source: Option<IpAddr>) -> Route {
    Route {
        destination,
        gateway: Some(gateway_of(destination.addr())),
        index: link.index,
        source,
        mtu: None,
        protocol: ROUTE_PROTOCOL,
    }
}
