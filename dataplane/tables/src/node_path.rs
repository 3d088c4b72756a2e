//! Other nodes: the way of packets to each, and what is known about it.

use std::fmt;
use std::sync::Arc;

use heddle_wire::vxlan::OuterHeader;
use heddle_wire::{Ip, MacAddr};

/// The interface that packets leave the node by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exit {
    /// The uplink's ports: the next hop is known.
    Uplink,
    /// The host port. The kernel routes the packet: its next hop is not resolved, or lies behind another interface.
    Kernel,
}

/// The Ethernet addresses of packets to a next hop, and the interface that they leave by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NextHop {
    /// The destination: the neighbor's, or the host port's.
    pub dst: MacAddr,
    /// The source: the uplink's, or the gateway's.
    pub src: MacAddr,
    /// The interface.
    pub exit: Exit,
}

/// The way of packets to another node. A flow hit reads this record and nothing else of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodePath {
    /// The outer headers of the tunnel, Ethernet included; `None` if packets go there as they are.
    pub outer: Option<OuterHeader>,
    /// The Ethernet addresses of the pod's packet, and the interface. In a tunnel, these are the inner frame's addresses.
    pub next_hop: NextHop,
    /// The MTU of a packet to the node's pods, in octets; 0 means no limit.
    pub mtu: u16,
}

const _: () = assert!(size_of::<NodePath>() <= 128, "two cache lines");

/// The reason for which packets do not reach another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unreachable {
    /// Its Node object has no InternalIP of a family that this node has one of.
    NoInternalIp,
    /// Its Node object lacks the annotation `heddle.io/vtep`, so no dataplane of heddle is known to run there.
    NoAnnotation,
    /// Another node, whose name comes first, has the same InternalIP.
    SharedInternalIp,
    /// The kernel has no route to its InternalIP.
    NoRoute,
    /// The next hop on the way to its InternalIP is not resolved, or not behind the uplink, and no tunnel is used.
    NoNeighbor,
    /// Its Node object lacks that annotation and has Flannel's, which do not count by the configuration.
    Flannel,
    /// Flannel runs there with another backend than `vxlan`.
    FlannelBackend,
    /// Flannel runs there with another network identifier than the configured one.
    FlannelVni,
    /// Flannel's annotations name no end of a tunnel of a family that this node has an address of.
    FlannelWithoutVtep,
}

impl Unreachable {
    /// Returns true if the network between the nodes is the reason, and not the Node objects.
    #[must_use]
    pub const fn is_of_underlay(self) -> bool {
        matches!(self, Self::NoRoute | Self::NoNeighbor)
    }

    /// Returns the reason in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoInternalIp => "its Node has no InternalIP of a family that this node has one of",
            Self::NoAnnotation => "its Node has no annotation heddle.io/vtep: no dataplane is known to run there",
            Self::SharedInternalIp => "another node has the same InternalIP",
            Self::NoRoute => "the kernel has no route to its InternalIP",
            Self::NoNeighbor => "the uplink has no resolved neighbor on the way to its InternalIP",
            Self::Flannel => {
                "its Node has no annotation heddle.io/vtep, but Flannel's, and flannelAnnotations is false"
            }
            Self::FlannelBackend => "its Flannel has another backend than vxlan (annotation backend-type)",
            Self::FlannelVni => "its Flannel has another VNI than vxlan.vni (annotation backend-data)",
            Self::FlannelWithoutVtep => {
                "its Flannel has no tunnel of a family that this node has an InternalIP of (annotation backend-data)"
            }
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteNode {
    /// `metadata.name` of its object.
    pub name: Arc<str>,
    /// The InternalIP that packets to it go to, if there is one.
    pub address: Option<Ip>,
    /// Its own addresses are reached like its pods while it has a path, because it runs heddle. Otherwise the kernel sends to them.
    pub takes_own: bool,
    /// Connections of clients outside may be forwarded to it without translation, because it runs heddle: by a tunnel, or as
    /// its neighbor. A router would send them back.
    pub takes_forwarded: bool,
    /// The way of packets to its pods.
    pub path: Result<NodePath, Unreachable>,
    /// The way of packets to its IPv6 pods, if it is another one. Then both ways are tunnels: `path` is one over IPv4, and this is
    /// one over IPv6.
    pub path_v6: Option<NodePath>,
}

impl RemoteNode {
    /// Returns the source MAC of the packets that the node forwards to this one without a tunnel; `None` if it forwards none so.
    #[must_use]
    pub fn forwarder_mac(&self) -> Option<MacAddr> {
        let path = self
            .path
            .ok()
            .filter(|path| self.takes_forwarded && path.outer.is_none())?;
        Some(path.next_hop.dst)
    }
}
