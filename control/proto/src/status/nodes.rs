//! The uplink and the other nodes, as `heddle status` prints them.

use serde::{Deserialize, Serialize};

/// The uplink: the NIC whose packets for heddle arrive at AF_XDP sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its name; `None` while it is unknown or gone.
    pub interface: Option<String>,
    /// The mode of its XDP program (`native` or `generic`); `None` while its ports are closed.
    pub mode: Option<String>,
    /// The way to pods of other nodes: `vxlan`, `none` or `auto`, as configured.
    pub tunnel: String,
    /// The Ethernet address of inner frames to this node, as the annotation `heddle.io/vtep` of its Node has it.
    #[serde(default)]
    pub vtep: String,
    /// Packets that were put into tunnels to other nodes, each fragment by itself.
    #[serde(default)]
    pub encapsulated: u64,
    /// Packets of other nodes that were taken out of tunnels.
    #[serde(default)]
    pub decapsulated: u64,
    /// The reason for which its ports are closed, or for which its neighbors cannot be kept.
    pub problems: Vec<String>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The address that packets to it go to.
    pub address: Option<String>,
    /// `tunnel` or `direct`; `None` if it is not reached.
    pub path: Option<String>,
    /// `uplink`, or `kernel` if the kernel sends to it because its next hop is not resolved; `None` if it is not reached.
    pub via: Option<String>,
    /// The MTU of packets to its pods, in octets; 0: no limit is known.
    pub mtu: u16,
    /// The reason for which it is not reached, or only by the kernel.
    pub problem: Option<String>,
}
