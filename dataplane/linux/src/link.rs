//! Network interfaces.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use heddle_wire::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use nix::libc::ENODEV;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::error::{LinuxError, absent_is_none};
use crate::netlink::Netlink;

/// A network interface, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The index.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The Ethernet address, if the interface has one.
    pub mac: Option<MacAddr>,
    /// The MTU.
    pub mtu: u32,
    /// `true` if the interface is administratively up.
    pub up: bool,
    /// `true` if the interface is up and its driver reports a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// `true` if the interface resolves no neighbors (`IFF_NOARP`), as most tunnels.
    pub noarp: bool,
    /// `true` if the interface is one end of a veth pair.
    pub veth: bool,
    /// `true` if the interface is a bond, whose packets arrive at other interfaces.
    pub bond: bool,
    /// The index of a veth's other end, in the namespace of that end.
    pub peer_index: Option<u32>,
    /// The number of transmit queues.
    pub tx_queues: u32,
    /// The number of receive queues.
    pub rx_queues: u32,
    /// The id of the XDP program that is attached to the interface.
    pub xdp_program: Option<u32>,
    /// `true` if that program runs in generic mode (`XDP_ATTACHED_SKB`): in the network stack, not in the driver.
    pub xdp_generic: bool,
}

impl Link {
    fn decode(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            noarp: message.header.flags.contains(LinkFlags::Noarp),
            veth: false,
            bond: false,
            peer_index: None,
            tx_queues: 0,
            rx_queues: 0,
            xdp_program: None,
            xdp_generic: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(octets) => link.mac = octets.as_slice().try_into().ok().map(MacAddr),
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                    link.bond = infos.contains(&LinkInfo::Kind(InfoKind::Bond));
                }
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::NumTxQueues(queues) => link.tx_queues = *queues,
                LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
                LinkAttribute::Xdp(attributes) => {
                    link.xdp_program = attributes.iter().find_map(|attribute| match attribute {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                    link.xdp_generic = attributes.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
                }
                _ => {}
            }
        }
        link
    }
}

/// A veth pair that is to be created.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// The name of the end in this namespace.
    pub name: &'a str,
    /// The name of the other end.
    pub peer: &'a str,
    /// The receive and the transmit queues of each end.
    pub queues: u32,
    /// The MTU of both ends.
    pub mtu: u32,
    /// The namespace of the other end; `None` for this one.
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// The Ethernet address of the other end; `None` for a random one.
    pub peer_mac: Option<MacAddr>,
}

/// Returns the index of an interface of the calling thread's network namespace; `None` if there is no interface of that
/// name.
///
/// It uses an ioctl that takes no lock in the kernel, so a thread that must not wait may call it.
///
/// # Errors
/// The kernel could not be asked.
pub fn link_index(name: &str) -> Result<Option<u32>, LinuxError> {
    let ask = || -> io::Result<u32> {
        // Any socket will do. if_nametoindex(3) is not used, because without a socket its error number is undefined.
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(netdevice::name_to_index(&socket, name)?)
    };
    absent_is_none(ask(), &[ENODEV]).map_err(LinuxError::step(format!("reading the index of interface {name}")))
}

/// Links.
impl Netlink {
    /// Finds an interface by name.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn link(&self, name: &str) -> Result<Option<Link>, LinuxError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.find(message, || format!("looking for interface {name}"))
    }

    /// Finds an interface by index.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn link_at(&self, index: u32) -> Result<Option<Link>, LinuxError> {
        self.find(message_for(index), || format!("looking for interface {index}"))
    }

    fn find(&self, message: LinkMessage, step: impl FnOnce() -> String) -> Result<Option<Link>, LinuxError> {
        let answer = self.get(RouteNetlinkMessage::GetLink(message));
        let found = absent_is_none(answer, &[ENODEV]).map_err(|e| LinuxError::step(step())(e))?;
        Ok(found.and_then(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Link::decode(&link)),
            _ => None,
        }))
    }

    /// Lists the interfaces.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn links(&self) -> Result<Vec<Link>, LinuxError> {
        let messages = self
            .dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(LinuxError::step("listing the interfaces"))?;
        let links = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Link::decode(link)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Creates a veth pair; both ends are down.
    ///
    /// Both ends get their Ethernet address with the request, so that the kernel records it as set (`NET_ADDR_SET`). The kernel
    /// would record an address that it chooses itself as random (`NET_ADDR_RANDOM`). systemd-udevd would replace such an address
    /// (`MACAddressPolicy=persistent`, systemd.link(5)), perhaps after other programs have read it.
    ///
    /// # Errors
    /// The kernel refuses, for example because one of the names is taken.
    pub fn add_veth(&self, pair: &VethPair<'_>) -> Result<(), LinuxError> {
        let end = |name: &str, mac: MacAddr| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Mtu(pair.mtu),
                LinkAttribute::NumTxQueues(pair.queues),
                LinkAttribute::NumRxQueues(pair.queues),
                LinkAttribute::Address(mac.0.to_vec()),
            ];
            message
        };
        // The peer is a link message of its own inside the first one; the kernel creates it in the namespace that this
        // inner message names (`veth_newlink`, `rtnl_link_get_net`).
        let mut peer = end(pair.peer, pair.peer_mac.unwrap_or_else(random_mac));
        peer.attributes
            .extend(pair.peer_netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
        let mut message = end(pair.name, random_mac());
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(LinuxError::step(format!(
                "creating the veth pair {} and {} with {} queues and MTU {}",
                pair.name, pair.peer, pair.queues, pair.mtu
            )))
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_up(&self, link: &Link) -> Result<(), LinuxError> {
        let mut message = message_for(link.index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::NewLink(message), 0)
            .map_err(LinuxError::step(format!("setting interface {} up", link.name)))
    }

    /// Limits the segments that the kernel passes to an interface in one piece, and the packets that it joins there, to `bytes`, from
    /// the Ethernet header on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn limit_segments(&self, link: &Link, bytes: u32) -> Result<(), LinuxError> {
        let mut message = message_for(link.index);
        message.attributes = vec![
            LinkAttribute::GsoMaxSize(bytes),
            LinkAttribute::GsoIpv4MaxSize(bytes),
            LinkAttribute::GroMaxSize(bytes),
            LinkAttribute::GroIpv4MaxSize(bytes),
        ];
        self.change(RouteNetlinkMessage::NewLink(message), 0)
            .map_err(LinuxError::step(format!(
                "limiting the segments of interface {} to {bytes} bytes",
                link.name
            )))
    }

    /// Sets an interface's MTU.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), LinuxError> {
        let mut message = message_for(link.index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.change(RouteNetlinkMessage::NewLink(message), 0)
            .map_err(LinuxError::step(format!(
                "setting MTU {mtu} on interface {}",
                link.name
            )))
    }

    /// Deletes an interface by its index, a veth with its other end. Returns false if it was deleted already.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_link(&self, link: &Link) -> Result<bool, LinuxError> {
        let deleted = self.change(RouteNetlinkMessage::DelLink(message_for(link.index)), 0);
        absent_is_none(deleted, &[ENODEV])
            .map(|deleted| deleted.is_some())
            .map_err(LinuxError::step(format!("deleting interface {}", link.name)))
    }
}

/// Returns a random Ethernet address that is unicast and locally administered.
fn random_mac() -> MacAddr {
    let [first, rest @ ..] = RandomState::new().hash_one(0u8).to_be_bytes();
    let [second, third, fourth, fifth, sixth, ..] = rest;
    MacAddr([(first & 0xfc) | 2, second, third, fourth, fifth, sixth])
}

fn message_for(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
