//! Flannel's annotations of a Node: where a kernel VXLAN device takes the packets of the node's pods.
//!
//! flanneld with the backend `vxlan` writes them (flannel-io/flannel, `pkg/subnet/kube` and `pkg/backend/vxlan`). Each family has a
//! device and a tunnel of its own: IPv4 pods over IPv4, IPv6 pods over IPv6.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mac::MacAddress;

/// The annotation without which flanneld ignores a Node: `"true"`.
pub const SUBNET_MANAGER_ANNOTATION: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
/// The annotation with the backend's name.
pub const BACKEND_TYPE_ANNOTATION: &str = "flannel.alpha.coreos.com/backend-type";
/// The annotation with the VNI and the MAC of the device for IPv4, as JSON.
pub const BACKEND_DATA_ANNOTATION: &str = "flannel.alpha.coreos.com/backend-data";
/// The annotation with the VNI and the MAC of the device for IPv6.
pub const BACKEND_V6_DATA_ANNOTATION: &str = "flannel.alpha.coreos.com/backend-v6-data";
/// The annotation with the address of tunnels over IPv4.
pub const PUBLIC_IP_ANNOTATION: &str = "flannel.alpha.coreos.com/public-ip";
/// The annotation with the address of tunnels over IPv6.
pub const PUBLIC_IPV6_ANNOTATION: &str = "flannel.alpha.coreos.com/public-ipv6";

/// The name of the backend that heddle exchanges packets with.
pub const VXLAN_BACKEND: &str = "vxlan";

/// The annotations of a Node that flanneld manages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlannelNode {
    /// The backend's name.
    pub backend: Arc<str>,
    /// The tunnel's end for IPv4 pods, over IPv4.
    pub v4: Option<FlannelVtep>,
    /// The tunnel's end for IPv6 pods, over IPv6.
    pub v6: Option<FlannelVtep>,
}

/// One end of Flannel's tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlannelVtep {
    /// The network identifier.
    pub vni: u32,
    /// The Ethernet address of inner frames.
    pub mac: MacAddress,
    /// The address that outer packets go to; `None`: the node's InternalIP.
    pub address: Option<IpAddr>,
}

impl FlannelNode {
    /// Returns the addresses that outer packets go to, as far as the annotations name them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ends = self.v4.iter().chain(&self.v6);
        ends.filter_map(|end| end.address)
    }
}
