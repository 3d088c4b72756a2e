//! The node's own values, which apply to all packets, from the configuration and the Node object.

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_ids::{PortId, WorkerId};
use heddle_wire::{Ip, MacAddr};

use crate::{Prefix, Tunnel};

/// The host port, `heddle0`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostPort {
    /// The MAC of `heddle0`, to which frames for the node are sent.
    pub mac: MacAddr,
    /// The addresses of `heddle0`, one of each family. They belong to the node.
    pub addresses: ArrayVec<Ip, 4>,
}

/// The addresses and source ports of masqueraded connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Masquerade {
    /// The address of each family, IPv4 first, if there is one. It belongs to heddle alone and is routed to `heddle0`.
    pub addresses: ArrayVec<Ip, 2>,
    /// The source ports that are reserved for it: first and last.
    pub ports: (u16, u16),
}

impl Masquerade {
    /// Returns the address of the family of `peer`.
    #[must_use]
    pub fn address_for(&self, peer: Ip) -> Option<Ip> {
        self.addresses.iter().find(|a| a.is_v4() == peer.is_v4()).copied()
    }
}

/// A port on one queue of the uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UplinkPort {
    /// The port.
    pub port: PortId,
    /// The worker that owns it.
    pub worker: WorkerId,
}

/// The uplink: the NIC by which the node reaches other nodes and the outside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uplink {
    /// Its MAC.
    pub mac: MacAddr,
    /// Its ports, one for each queue; empty while no port is open.
    pub ports: Vec<UplinkPort>,
}

/// This node's configuration and addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeTable {
    /// Its name.
    pub name: Arc<str>,
    /// Its addresses: the Node object's in their order, internal ones first, and then the ones of `heddle0`.
    pub addresses: Vec<Ip>,
    /// The ranges that its own pods have their addresses from.
    pub pod_cidrs: Vec<Prefix>,
    /// The ranges of the Services' addresses; empty if neither a ServiceCIDR object nor the configuration names one.
    pub service_cidrs: Vec<Prefix>,
    /// The ranges outside of the cluster for which the kernel does not masquerade pods.
    pub unmasqueraded: Vec<Prefix>,
    /// The host port.
    pub host: HostPort,
    /// Masquerade.
    pub masquerade: Masquerade,
    /// The uplink.
    pub uplink: Uplink,
    /// The tunnels' network; `None` if the node uses none.
    pub tunnel: Option<Tunnel>,
    /// The Ethernet address of inner frames to this node, beside the gateway's.
    pub vtep: Option<MacAddr>,
    /// The MTU of attachments that name none.
    pub local_mtu: u16,
    /// The MTU of the uplink, which is also that of the host port.
    pub uplink_mtu: u16,
}

impl NodeTable {
    /// The gateway of every IPv4 pod: 169.254.1.1, which exists only in heddle.
    pub const GATEWAY_V4: Ip = Ip::from_v4([169, 254, 1, 1]);
    /// The gateway of every IPv6 pod: fe80::1.
    pub const GATEWAY_V6: Ip = Ip::from_v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    /// The gateway's MAC, the same everywhere.
    pub const GATEWAY_MAC: MacAddr = MacAddr::GATEWAY;

    /// Returns true if `addr` is the gateway of one of the families.
    #[inline]
    #[must_use]
    pub fn is_gateway(addr: Ip) -> bool {
        addr == Self::GATEWAY_V4 || addr == Self::GATEWAY_V6
    }

    /// Returns the first address of a family.
    #[must_use]
    pub fn address_of_family(&self, is_v4: bool) -> Option<Ip> {
        self.addresses.iter().find(|a| a.is_v4() == is_v4).copied()
    }

    /// Returns true if node ports are reached at an address: one of the node's, or a masquerade address. The kernel redirects the
    /// packets that processes of the node send to a node port at one of the node's addresses to the masquerade address.
    #[inline]
    #[must_use]
    pub fn has_node_ports(&self, addr: Ip) -> bool {
        self.addresses.contains(&addr) || self.masquerade.addresses.contains(&addr)
    }

    /// Returns true if an address lies in a range for which the kernel does not masquerade pods.
    #[must_use]
    pub fn is_unmasqueraded(&self, addr: Ip) -> bool {
        self.unmasqueraded.iter().any(|c| c.contains(addr))
    }

    /// Returns true if an address lies in a range of Services.
    #[must_use]
    pub fn in_service_range(&self, addr: Ip) -> bool {
        self.service_cidrs.iter().any(|c| c.contains(addr))
    }
}
