//! The host port's routes: pod and Service ranges by heddle's gateway, on link, with a preferred source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use heddle_wire::MacAddr;
use ipnet::IpNet;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use nix::errno::Errno;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::error::HostError;
use crate::gateway_of;
use crate::netlink::{failed, is_errno};
use crate::sysctl;

/// The protocol number that marks heddle's routes (`h`; not in iproute2's rt_protos).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(104);

/// heddle's routes by one interface, as they stand in the main table.
#[derive(Debug)]
pub struct Routes {
    interface: u32,
    standing: BTreeMap<IpNet, Option<IpAddr>>,
    /// Wanted sources that are not this machine's, by what stands instead.
    replaced_sources: BTreeSet<IpAddr>,
}

impl Routes {
    /// Reads those that are there.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub async fn read(handle: &Handle, interface: u32) -> Result<Self, HostError> {
        let mut standing = BTreeMap::new();
        let mut families = vec![RouteMessageBuilder::<Ipv4Addr>::new().build()];
        if sysctl::has_ipv6() {
            families.push(RouteMessageBuilder::<Ipv6Addr>::new().build());
        }
        for family in families {
            let mut all = handle.route().get(family).execute();
            while let Some(route) = all.try_next().await.map_err(failed("reading routes"))? {
                if let Some((range, source)) = ours(&route, interface) {
                    standing.insert(range, source);
                }
            }
        }
        Ok(Self {
            interface,
            standing,
            replaced_sources: BTreeSet::new(),
        })
    }

    /// Makes them what is wanted: each range with its source. A source that is no address of this machine is replaced
    /// by the host port's own. Returns what failed.
    pub async fn apply(
        &mut self,
        handle: &Handle,
        wanted: &BTreeMap<IpNet, IpAddr>,
        own: &BTreeSet<IpAddr>,
    ) -> Vec<HostError> {
        let mut failures = Vec::new();
        let stale: Vec<(IpNet, Option<IpAddr>)> = self
            .standing
            .iter()
            .filter(|(range, _)| !wanted.contains_key(*range))
            .map(|(r, s)| (*r, *s))
            .collect();
        for (range, source) in stale {
            self.remove(handle, range, source, &mut failures).await;
        }
        for (&range, &source) in wanted {
            let instead = own.iter().find(|ip| ip.is_ipv4() == source.is_ipv4()).copied();
            let chosen = if self.replaced_sources.contains(&source) {
                instead
            } else {
                Some(source)
            };
            let standing = self.standing.get(&range).copied();
            if standing == Some(chosen) {
                continue;
            }
            if let Some(standing) = standing {
                self.remove(handle, range, standing, &mut failures).await;
            }
            match self.add(handle, range, chosen).await {
                // The preferred source must be local (fib_valid_prefsrc, ip6_route_info_create).
                Err(e) if chosen == Some(source) && is_errno(&e, Errno::EINVAL) && instead != chosen => {
                    if self.replaced_sources.insert(source) {
                        tracing::warn!(
                            address = %source,
                            "the Node's InternalIP is no address of this machine: host traffic to pods and Services gets the host port's address as its source"
                        );
                    }
                    if let Err(e) = self.add(handle, range, instead).await {
                        failures.push(refusal(range, e));
                    }
                }
                Err(e) => failures.push(refusal(range, e)),
                Ok(()) => {}
            }
        }
        failures
    }

    async fn add(&mut self, handle: &Handle, range: IpNet, source: Option<IpAddr>) -> Result<(), rtnetlink::Error> {
        handle
            .route()
            .add(message(self.interface, range, source))
            .execute()
            .await?;
        self.standing.insert(range, source);
        Ok(())
    }

    async fn remove(&mut self, handle: &Handle, range: IpNet, source: Option<IpAddr>, failures: &mut Vec<HostError>) {
        match handle
            .route()
            .del(message(self.interface, range, source))
            .execute()
            .await
        {
            Ok(()) => {}
            Err(e) if is_errno(&e, Errno::ESRCH) => {}
            Err(e) => {
                failures.push(failed(format!("removing the route to {range}"))(e));
                return;
            }
        }
        self.standing.remove(&range);
    }
}

fn refusal(range: IpNet, error: rtnetlink::Error) -> HostError {
    if is_errno(&error, Errno::EEXIST) {
        return HostError::InTheWay(format!(
            "there is a route to {range} that is not heddle's: remove it, or the node's processes reach that range by it"
        ));
    }
    failed(format!("adding the route to {range}"))(error)
}

fn message(interface: u32, range: IpNet, source: Option<IpAddr>) -> RouteMessage {
    let mut message = match range {
        IpNet::V4(range) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .build(),
        IpNet::V6(range) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .build(),
    };
    message.header.protocol = PROTOCOL;
    message
        .header
        .flags
        .insert(netlink_packet_route::route::RouteFlags::Onlink);
    message.attributes.push(RouteAttribute::Oif(interface));
    message
        .attributes
        .push(RouteAttribute::Gateway(RouteAddress::from(gateway_of(range.addr()))));
    if let Some(source) = source {
        message
            .attributes
            .push(RouteAttribute::PrefSource(RouteAddress::from(source)));
    }
    message
}

/// Range and source of a route of heddle's by this interface.
fn ours(route: &RouteMessage, interface: u32) -> Option<(IpNet, Option<IpAddr>)> {
    if route.header.protocol != PROTOCOL || route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut destination = None;
    let mut source = None;
    let mut by_interface = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::Oif(index) => by_interface = *index == interface,
            _ => {}
        }
    }
    let range = IpNet::new(destination?, route.header.destination_prefix_length).ok()?;
    by_interface.then_some((range, source))
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// Sets a neighbour entry that never ages, so that nobody has to answer for it.
///
/// # Errors
/// The kernel refuses.
pub async fn permanent_neighbour(
    handle: &Handle,
    interface: u32,
    address: IpAddr,
    mac: MacAddr,
) -> Result<(), HostError> {
    handle
        .neighbours()
        .add(interface, address)
        .link_layer_address(&mac.0)
        .replace()
        .execute()
        .await
        .map_err(failed(format!(
            "setting the neighbour {address} on interface {interface}"
        )))
}
