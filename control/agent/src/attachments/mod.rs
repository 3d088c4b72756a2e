//! The attachments of this node: who has which number, address and interface; durable.
//!
//! An attachment is one interface of one container, named by both as CNI does. Its number is the endpoint's number in
//! the tables and in the flow table, so it outlives the process and is used again late. [`alloc`] chooses addresses,
//! [`store`] keeps everything in one file.

pub mod alloc;
pub mod store;

use std::net::IpAddr;

use heddle_proto::{ContainerId, IfName, NetnsPath, PodRef, serde_mac};
use heddle_wire::MacAddr;
use serde::{Deserialize, Serialize};

pub use store::{Store, StoreError};

/// The first number of a pod: 0 is the host, 1 the uplink.
pub const FIRST_ID: u16 = 2;
/// The last number. Numbers go round in a range much larger than the most pods, so that one is used again late.
pub const LAST_ID: u16 = 8191;

/// One attachment, as the state directory keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Its durable number.
    #[serde(rename = "number")]
    pub id: u16,
    /// `CNI_CONTAINERID`
    pub container: ContainerId,
    /// `CNI_IFNAME`
    pub ifname: IfName,
    /// `CNI_NETNS`
    pub netns: NetnsPath,
    /// The pod, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The node's end of the veth.
    pub host_ifname: IfName,
    /// Its interface index, once the plugin has told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifindex: Option<u32>,
    /// The Ethernet address of the pod's end.
    #[serde(with = "serde_mac")]
    pub mac: MacAddr,
    /// The MTU of both ends.
    pub mtu: u32,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The plugin has said *ready*: the interface stands and is configured.
    pub ready: bool,
}

impl Record {
    /// Whether this is the attachment of that interface of that container.
    #[must_use]
    pub fn is(&self, container: &ContainerId, ifname: &IfName) -> bool {
        self.container == *container && self.ifname == *ifname
    }

    /// A name for people: the pod's, or container and interface.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.pod {
            Some(pod) => pod.to_string(),
            None => format!("{} {}", self.container, self.ifname),
        }
    }
}
