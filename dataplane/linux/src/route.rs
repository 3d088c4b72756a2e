//! Unicast routes of the main table, and the kernel's route to an address.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::{EACCES, EAFNOSUPPORT, EHOSTUNREACH, EINVAL, ENETUNREACH, EOPNOTSUPP, ESRCH};

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
                RouteAttribute::Metrics(metrics) => mtu = mtu_of(metrics),
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

/// The kernel's answer for packets of this node to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The packets leave by an interface.
    Unicast(NextHop),
    /// The address is one of this node's own.
    Local,
    /// A route refuses the packets (unreachable, blackhole or prohibit), or the address is a group's (multicast or broadcast).
    Unreachable,
}

/// The way that packets to an address leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The index of the interface.
    pub index: u32,
    /// The gateway; `None` if the address is on the link. An IPv4 route may have an IPv6 gateway.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel chooses; `None` if the node has no usable address of the family.
    pub source: Option<IpAddr>,
    /// The path MTU in bytes, if the route has one or the kernel has learned one; `None` for the interface's.
    pub mtu: Option<u32>,
}

impl Resolved {
    /// Decodes the kernel's answer; `None` without an interface.
    fn decode(message: &RouteMessage) -> Option<Self> {
        match message.header.kind {
            RouteType::Local | RouteType::Anycast => return Some(Self::Local),
            RouteType::Unicast => {}
            _ => return Some(Self::Unreachable),
        }
        let (mut index, mut gateway, mut source, mut mtu) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(number) => index = Some(*number),
                RouteAttribute::Gateway(address) => gateway = ip_of(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => source = ip_of(address),
                RouteAttribute::Metrics(metrics) => mtu = mtu_of(metrics),
                _ => {}
            }
        }
        Some(Self::Unicast(NextHop {
            index: index?,
            gateway,
            source,
            mtu,
        }))
    }
}

/// Routes.
impl Netlink {
    /// Asks the kernel for its route to an address (RTM_GETROUTE), as for a packet that this node sends without a source, a mark
    /// or ports. The kernel follows its policy rules, and chooses one hop of several (multipath) by the address. `None` means that
    /// there is no route.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn route_to(&self, address: IpAddr) -> Result<Option<Resolved>, LinuxError> {
        let step = || LinuxError::step(format!("asking for the route to {address}"));
        let mut query = RouteMessage::default();
        query.header.address_family = family_of(address);
        query.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        query.attributes.push(RouteAttribute::Destination(address.into()));
        let answer = self.get(RouteNetlinkMessage::GetRoute(query));
        // A route that refuses packets is answered by its error (fib_props, fib6_prop): EHOSTUNREACH for an unreachable one, EINVAL
        // for a blackhole, EACCES for a prohibition.
        if let Err(e) = &answer
            && let Some(EHOSTUNREACH | EINVAL | EACCES) = e.raw_os_error()
        {
            return Ok(Some(Resolved::Unreachable));
        }
        // A kernel without the family's routes has no such request (EOPNOTSUPP).
        match absent_is_none(answer, &[ENETUNREACH, EOPNOTSUPP, EAFNOSUPPORT]).map_err(|e| step()(e))? {
            None => Ok(None),
            Some(RouteNetlinkMessage::NewRoute(route)) => match Resolved::decode(&route) {
                Some(resolved) => Ok(Some(resolved)),
                None => Err(step()(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the route has no interface",
                ))),
            },
            Some(_) => Err(step()(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is no route",
            ))),
        }
    }

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

/// Returns the MTU among a route's metrics.
fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
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

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> Option<Resolved> {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        Resolved::decode(&message)
    }

    #[test]
    fn the_kinds_of_an_answer() {
        let oif = RouteAttribute::Oif(7);
        for kind in [RouteType::Local, RouteType::Anycast] {
            assert_eq!(answer(kind, vec![oif.clone()]), Some(Resolved::Local));
        }
        for kind in [
            RouteType::Unreachable,
            RouteType::BlackHole,
            RouteType::Prohibit,
            RouteType::Multicast,
            RouteType::Broadcast,
        ] {
            assert_eq!(answer(kind, vec![oif.clone()]), Some(Resolved::Unreachable));
        }
        assert_eq!(answer(RouteType::Unicast, Vec::new()), None);
    }

    #[test]
    fn an_answer_has_the_gateway_of_either_family() {
        let gateway_of = |attribute| match answer(RouteType::Unicast, vec![RouteAttribute::Oif(7), attribute]) {
            Some(Resolved::Unicast(hop)) => hop.gateway,
            other => panic!("{other:?}"),
        };
        let (v4, v6) = (IpAddr::from([10, 0, 0, 1]), "fe80::9".parse::<IpAddr>().unwrap());
        assert_eq!(gateway_of(RouteAttribute::Gateway(v4.into())), Some(v4));
        assert_eq!(gateway_of(RouteAttribute::Gateway(v6.into())), Some(v6));
        let via = RouteVia::Inet6("fe80::9".parse().unwrap());
        assert_eq!(gateway_of(RouteAttribute::Via(via)), Some(v6));
        assert_eq!(gateway_of(RouteAttribute::PrefSource(v4.into())), None);
    }
}
