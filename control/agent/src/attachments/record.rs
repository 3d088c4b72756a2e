//! The record of one attachment.

use std::net::IpAddr;

use heddle_proto::{ContainerId, IfName, NetnsPath, PodRef, PortMapping, serde_mac};
use heddle_wire::MacAddr;
use serde::{Deserialize, Serialize};

/// The first id of a pod: 0 is the host, 1 the uplink.
pub const FIRST_ID: u16 = 2;
/// The last id. The range is much larger than the number of pods, so that a released id is reused late.
pub const LAST_ID: u16 = 8191;

/// One attachment, as the file in the state directory has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The id, which stays the same over restarts of the agent. The file calls it `number`.
    #[serde(rename = "number")]
    pub id: u16,
    /// `CNI_CONTAINERID`
    pub container: ContainerId,
    /// `CNI_IFNAME`
    pub ifname: IfName,
    /// `CNI_NETNS`
    pub netns: NetnsPath,
    /// The pod; `None` if the runtime named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The name of the node's end of the veth pair.
    pub host_ifname: IfName,
    /// The interface index of the node's end, once the plugin has sent *ready*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifindex: Option<u32>,
    /// The MAC address of the pod's end.
    #[serde(with = "serde_mac")]
    pub mac: MacAddr,
    /// The MTU of both ends.
    pub mtu: u32,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// `true` once the plugin has sent *ready*: the interface exists and is configured.
    pub ready: bool,
    /// `true` if the pod's kernel passes on nothing larger than the MTU but TCP segments. Plugins of earlier versions did not see
    /// to it, so their pods' ports are never in generic mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tcp_segments_only: bool,
}

impl Record {
    /// Returns `true` if this is the attachment of an interface of a container.
    #[must_use]
    pub fn is_of(&self, container: &ContainerId, ifname: &IfName) -> bool {
        self.container == *container && self.ifname == *ifname
    }

    /// Returns a name for messages: the pod's name, or container and interface.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.pod {
            Some(pod) => pod.to_string(),
            None => format!("{} {}", self.container, self.ifname),
        }
    }
}
