//! Links, addresses, routes and neighbours of one network namespace, by rtnetlink(7).
//!
//! A connection belongs to the namespace of the thread that opens it. Every function names what it did in its error.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use heddle_proto::PreparedRoute;
use heddle_wire::MacAddr;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::kernel::KernelError;

const ENODEV: i32 = nix::libc::ENODEV;

/// Names a step that netlink refused.
fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> KernelError {
    let what = what.into();
    move |e| KernelError::Step { what, source: to_io(e) }
}

fn to_io(e: rtnetlink::Error) -> io::Error {
    match e {
        rtnetlink::Error::NetlinkError(e) => e.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address (zero where it has none).
    pub mac: MacAddr,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is an end of a veth.
    pub veth: bool,
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: MacAddr::default(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            veth: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(octets) => {
                    link.mac = octets.as_slice().try_into().map(MacAddr).unwrap_or_default();
                }
                LinkAttribute::LinkInfo(infos) => link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
                _ => {}
            }
        }
        link
    }
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// The name of this namespace's end.
    pub name: &'a str,
    /// The name of the other end.
    pub peer: &'a str,
    /// The descriptor of the other end's namespace.
    pub peer_netns: std::os::fd::RawFd,
    /// The other end's Ethernet address.
    pub peer_mac: MacAddr,
    /// The MTU of both.
    pub mtu: u32,
}

/// A route as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// Where to.
    pub dst: IpNet,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The interface's index.
    pub index: u32,
    /// The route's MTU.
    pub mtu: Option<u32>,
}

/// A connection to the kernel's rtnetlink.
#[derive(Debug)]
pub struct Rtnl(Handle);

impl Rtnl {
    /// Opens a connection in the calling thread's namespace, driven by the runtime that it is called on.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open() -> Result<Self, KernelError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(KernelError::step("opening an rtnetlink socket"))?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Finds an interface.
    ///
    /// # Errors
    /// The kernel's, except that there is none.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, KernelError> {
        match self
            .0
            .link()
            .get()
            .match_name(name.to_owned())
            .execute()
            .try_next()
            .await
        {
            Ok(found) => Ok(found.as_ref().map(Link::of)),
            Err(e) => {
                let source = to_io(e);
                if source.raw_os_error() == Some(ENODEV) {
                    return Ok(None);
                }
                Err(KernelError::Step {
                    what: format!("looking for interface {name}"),
                    source,
                })
            }
        }
    }

    /// Makes a veth pair with one queue at each end.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_veth(&self, pair: &VethPair<'_>) -> Result<(), KernelError> {
        // The peer is a link message of its own inside the first one's; the kernel makes it in the namespace that it names
        // (`veth_newlink`, `rtnl_link_get_net`).
        let queues = |link: LinkMessageBuilder<LinkUnspec>| {
            link.append_extra_attribute(LinkAttribute::NumTxQueues(1))
                .append_extra_attribute(LinkAttribute::NumRxQueues(1))
        };
        let peer = queues(LinkUnspec::new_with_name(pair.peer))
            .mtu(pair.mtu)
            .address(pair.peer_mac.0.to_vec())
            .setns_by_fd(pair.peer_netns)
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(pair.name)
            .mtu(pair.mtu)
            .append_extra_attribute(LinkAttribute::NumTxQueues(1))
            .append_extra_attribute(LinkAttribute::NumRxQueues(1))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let what = || {
            format!(
                "making the veth pair {} and {} with MTU {}",
                pair.name, pair.peer, pair.mtu
            )
        };
        self.0
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|e| failed(what())(e))
    }

    /// Switches an interface on.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn up(&self, link: &Link) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.0
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed(format!("switching {} on", link.name)))
    }

    /// Deletes an interface; of a veth, both ends go. One that is gone already is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete(&self, link: &Link) -> Result<(), KernelError> {
        let Err(e) = self.0.link().del(link.index).execute().await else {
            return Ok(());
        };
        let source = to_io(e);
        if source.raw_os_error() == Some(ENODEV) {
            return Ok(());
        }
        Err(KernelError::Step {
            what: format!("deleting interface {}", link.name),
            source,
        })
    }

    /// Adds an address with the full prefix; an IPv6 one without duplicate address detection, so that it is usable at once.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_address(&self, link: &Link, address: IpAddr) -> Result<(), KernelError> {
        let prefix = IpNet::from(address).prefix_len();
        let mut request = self.0.address().add(link.index, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
            .execute()
            .await
            .map_err(failed(format!("adding address {address} to {}", link.name)))
    }

    /// The addresses of an interface.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn addresses(&self, link: &Link) -> Result<Vec<IpNet>, KernelError> {
        let messages: Vec<AddressMessage> = self
            .0
            .address()
            .get()
            .set_link_index_filter(link.index)
            .execute()
            .try_collect()
            .await
            .map_err(failed(format!("listing the addresses of {}", link.name)))?;
        Ok(messages.iter().filter_map(address_of).collect())
    }

    /// Makes a neighbour known for good.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_neighbour(&self, link: &Link, neighbour: IpAddr, mac: MacAddr) -> Result<(), KernelError> {
        self.0
            .neighbours()
            .add(link.index, neighbour)
            .state(NeighbourState::Permanent)
            .link_layer_address(&mac.0)
            .replace()
            .execute()
            .await
            .map_err(failed(format!(
                "adding neighbour {neighbour} with {mac} to {}",
                link.name
            )))
    }

    /// The permanent neighbours of an interface.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn neighbours(&self, link: &Link) -> Result<Vec<(IpAddr, MacAddr)>, KernelError> {
        let messages: Vec<_> = self
            .0
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed(format!("listing the neighbours of {}", link.name)))?;
        let permanent = messages
            .iter()
            .filter(|m| m.header.ifindex == link.index && m.header.state == NeighbourState::Permanent);
        Ok(permanent
            .filter_map(|m| {
                let address = m.attributes.iter().find_map(|a| match a {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::from(*a)),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::from(*a)),
                    _ => None,
                })?;
                let mac = m.attributes.iter().find_map(|a| match a {
                    NeighbourAttribute::LinkLayerAddress(octets) => octets.as_slice().try_into().ok().map(MacAddr),
                    _ => None,
                })?;
                Some((address, mac))
            })
            .collect())
    }

    /// Adds a route to a host on the link.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_link_route(&self, link: &Link, host: IpAddr) -> Result<(), KernelError> {
        let mut message = route_to(IpNet::from(host), link.index);
        message.header.scope = RouteScope::Link;
        let what = format!("adding a route to {host} on the link {}", link.name);
        self.0.route().add(message).execute().await.map_err(failed(what))
    }

    /// Adds a route by a gateway that is on the link.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_route(&self, link: &Link, route: &PreparedRoute) -> Result<(), KernelError> {
        let mut message = route_to(route.dst, link.index);
        message.header.flags |= rtnetlink::packet_route::route::RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(route.via.into()));
        if let Some(mtu) = route.mtu {
            message
                .attributes
                .push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        if let Some(src) = route.src {
            message.attributes.push(RouteAttribute::PrefSource(src.into()));
        }
        let what = || format!("adding the route to {} via {} on {}", route.dst, route.via, link.name);
        self.0
            .route()
            .add(message)
            .execute()
            .await
            .map_err(|e| failed(what())(e))
    }

    /// The unicast routes of the main table, of both families.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn routes(&self) -> Result<Vec<KernelRoute>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let messages: Vec<RouteMessage> = self
                .0
                .route()
                .get(query)
                .execute()
                .try_collect()
                .await
                .map_err(failed("listing the routes"))?;
            routes.extend(messages.iter().filter_map(route_of));
        }
        Ok(routes)
    }
}

fn route_to(dst: IpNet, index: u32) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .protocol(RouteProtocol::Boot);
    let mut message = builder.build();
    message.header.address_family = if dst.addr().is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.destination_prefix_length = dst.prefix_len();
    if dst.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(dst.network().into()));
    }
    message
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    // For IPv4, IFA_ADDRESS would be the other end of a point-to-point interface: IFA_LOCAL is what the interface has.
    let local = message.attributes.iter().find_map(|a| {
        if let AddressAttribute::Local(a) = a {
            Some(*a)
        } else {
            None
        }
    });
    let address = message.attributes.iter().find_map(|a| {
        if let AddressAttribute::Address(a) = a {
            Some(*a)
        } else {
            None
        }
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn route_of(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|a| {
        if let RouteAttribute::Table(t) = a {
            Some(*t)
        } else {
            None
        }
    });
    if table.unwrap_or(u32::from(header.table)) != u32::from(rtnetlink::packet_route::route::RouteHeader::RT_TABLE_MAIN)
    {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut dst, mut via, mut index, mut mtu) = (unspecified, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => dst = plain(a)?,
            RouteAttribute::Gateway(a) => via = plain(a),
            RouteAttribute::Oif(i) => index = Some(*i),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| {
                    if let RouteMetric::Mtu(mtu) = m {
                        Some(*mtu)
                    } else {
                        None
                    }
                });
            }
            _ => {}
        }
    }
    Some(KernelRoute {
        dst: IpNet::new(dst, header.destination_prefix_length).ok()?,
        via,
        index: index?,
        mtu,
    })
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}
