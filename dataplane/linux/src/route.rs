//! Unicast routes of the main table.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::ESRCH;

use crate::error::{LinuxError, absent_is_none};
use crate::netlink::Netlink;

/// The protocol number of routes that were set at configuration time (`RTPROT_BOOT`), which `ip route add` uses.
pub const PROTOCOL_BOOT: u8 = 3;

/// A unicast route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub destination: IpNet,
    /// The gateway; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The index of the interface.
    pub index: u32,
    /// The preferred source address.
    pub source: Option<IpAddr>,
    /// The MTU of the path.
    pub mtu: Option<u32>,
    /// The number of the program that set the route (`RTPROT_*`).
    pub protocol: u8,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

impl Route {
    /// Encodes the route. The gateway counts as reachable on the interface even without a route to it (`onlink`).
    fn encode(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family_of(self.destination.addr()),
            destination_prefix_length: self.destination.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::from(self.protocol),
            scope: if self.gateway.is_some() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Oif(self.index));
        if self.destination.prefix_len() > 0 {
            let network = RouteAddress::from(self.destination.network());
            message.attributes.push(RouteAttribute::Destination(network));
        }
        if let Some(gateway) = self.gateway {
            message.header.flags |= RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(mtu) = self.mtu {
            message
                .attributes
                .push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }

    /// Decodes a route; `None` for one of another table or kind, or without an interface of its own (multipath).
    fn decode(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let unspecified = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let mut table = u32::from(header.table);
        let (mut destination, mut gateway, mut index, mut source, mut mtu) = (unspecified, None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                // Only this attribute contains the number of a table above 255.
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(address) => destination = ip_of(address)?,
                RouteAttribute::Gateway(address) => gateway = ip_of(address),
                RouteAttribute::Oif(number) => index = Some(*number),
                RouteAttribute::PrefSource(address) => source = ip_of(address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| {
                        if let RouteMetric::Mtu(mtu) = metric {
                            Some(*mtu)
                        } else {
                            None
                        }
                    });
                }
                _ => {}
            }
        }
        let is_ours = table == u32::from(RouteHeader::RT_TABLE_MAIN) && header.kind == RouteType::Unicast;
        is_ours.then_some(Self {
            destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
            gateway,
            index: index?,
            source,
            mtu,
            protocol: header.protocol.into(),
        })
    }
}

/// Routes.
impl Netlink {
    /// Lists the unicast routes of the main table, of both families.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn routes(&self) -> Result<Vec<Route>, LinuxError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let messages = self
                .dump(&RouteNetlinkMessage::GetRoute(query))
                .map_err(LinuxError::step("listing the routes"))?;
            routes.extend(messages.iter().filter_map(|message| match message {
                // A kernel without IPv6 answers with the routes of all families that it has.
                RouteNetlinkMessage::NewRoute(route) if route.header.address_family == family => Route::decode(route),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// The kernel refuses, for example because there is a route to the destination (EEXIST), or because the preferred
    /// source is no address of this machine (EINVAL).
    pub fn add_route(&self, route: &Route) -> Result<(), LinuxError> {
        self.change(RouteNetlinkMessage::NewRoute(route.encode()), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(LinuxError::step(format!("adding the route to {route}")))
    }

    /// Removes a route and returns `false` if there is no such route.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_route(&self, route: &Route) -> Result<bool, LinuxError> {
        let removed = self.change(RouteNetlinkMessage::DelRoute(route.encode()), 0);
        absent_is_none(removed, &[ESRCH])
            .map(|removed| removed.is_some())
            .map_err(LinuxError::step(format!("removing the route to {route}")))
    }
}

const fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

const fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_decoded_as_it_was_encoded() {
        for (destination, gateway) in [
            ("10.0.0.0/16", Some("169.254.1.1")),
            ("0.0.0.0/0", Some("169.254.1.1")),
            ("fd00::/48", Some("fe80::1")),
            ("169.254.1.1/32", None),
        ] {
            let route = Route {
                destination: destination.parse().unwrap(),
                gateway: gateway.map(|ip| ip.parse().unwrap()),
                index: 7,
                source: None,
                mtu: Some(1450),
                protocol: 104,
            };
            assert_eq!(Route::decode(&route.encode()), Some(route));
        }
    }

    #[test]
    fn routes_of_other_tables_are_left_out() {
        let route = Route {
            destination: "10.0.0.0/16".parse().unwrap(),
            gateway: None,
            index: 7,
            source: None,
            mtu: None,
            protocol: PROTOCOL_BOOT,
        };
        let mut message = route.encode();
        message.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(Route::decode(&message), None);
        let mut message = route.encode();
        message.header.kind = RouteType::BlackHole;
        assert_eq!(Route::decode(&message), None);
    }
}
