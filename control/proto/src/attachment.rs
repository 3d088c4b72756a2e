//! The messages of the CNI plugin and the agent about one attachment: one interface of one container.
//!
//! Container id and interface name identify an attachment, as in CNI. Preparing an attachment that exists (a repeated ADD after a
//! crash of the plugin) replaces it by a new one. Releasing one that does not exist succeeds.

use std::fmt;
use std::net::IpAddr;

use heddle_wire::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{ContainerId, IfName, MAX_PORT_MAPPINGS, NetnsPath, ObjectName, PortMapping, serde_mac};

/// The maximum number of addresses of an attachment.
pub const MAX_ADDRESSES: usize = 4;
/// The maximum number of routes of an attachment: one for each Service, if there is no Service CIDR.
pub const MAX_ROUTES: usize = 65_536;

/// The Kubernetes object that an attachment belongs to (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`).
/// The agent's state file contains it, so fields of later versions are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// The pod's namespace.
    pub namespace: ObjectName,
    /// The pod's name.
    pub name: ObjectName,
    /// The pod's uid, which containerd since 1.6 and CRI-O since 1.21 pass in `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<ObjectName>,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `POST /v1/attachments`: a request for an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareRequest {
    /// `CNI_CONTAINERID`.
    pub container: ContainerId,
    /// `CNI_IFNAME`, the name inside the container.
    pub ifname: IfName,
    /// `CNI_NETNS`.
    pub netns: NetnsPath,
    /// The pod; `None` for attachments without a Kubernetes object (podman, cnitool).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The interface MTU in the network configuration. `None`: the agent's `podMTU`. The agent refuses an MTU above
    /// `podMTU`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The ports of the node that lead to the pod (`runtimeConfig.portMappings`).
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "at_most::<_, _, MAX_PORT_MAPPINGS>"
    )]
    pub port_mappings: Vec<PortMapping>,
}

/// One address of a prepared attachment; in the pod it has the full prefix (`/32`, `/128`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedAddress {
    /// The pod's address.
    pub address: IpAddr,
    /// The gateway of its family: 169.254.1.1 or `fe80::1`.
    pub gateway: IpAddr,
}

/// A route of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedRoute {
    /// The destination.
    pub dst: IpNet,
    /// The gateway, reached on link.
    pub via: IpAddr,
    /// The route's MTU (`RTAX_MTU`); `None`: the interface's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The preferred source (`RTA_PREFSRC`); `None`: the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
}

/// The answer to [`PrepareRequest`]: the interface that the plugin sets up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The attachment's number, which stays the same when the agent restarts.
    pub attachment: u16,
    /// The name of the node's end of the veth.
    pub host_ifname: IfName,
    /// The Ethernet address of the pod's end.
    #[serde(with = "serde_mac")]
    pub mac: MacAddr,
    /// The MTU of both ends.
    pub mtu: u32,
    /// The pod's addresses, one or two.
    #[serde(deserialize_with = "at_most::<_, _, MAX_ADDRESSES>")]
    pub addresses: Vec<PreparedAddress>,
    /// The gateway's Ethernet address.
    #[serde(with = "serde_mac")]
    pub gateway_mac: MacAddr,
    /// The largest TCP segment that the pod's kernel may pass on in one piece (`gso_max_size`); it may do so with nothing else.
    /// `None`: an agent of an earlier version, which takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_segment: Option<u32>,
    /// The pod's routes. The plugin adds the routes to the gateways itself.
    #[serde(deserialize_with = "at_most::<_, _, MAX_ROUTES>")]
    pub routes: Vec<PreparedRoute>,
}

/// `POST /v1/attachments/{container}/{ifname}/ready`: the veth pair exists, both ends are up, and the pod's end is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyRequest {
    /// The attachment's number, from [`Prepared`]. A *ready* that belongs to an earlier *prepare* is refused.
    pub attachment: u16,
    /// The interface index of the node's end.
    pub host_ifindex: u32,
    /// The Ethernet address of the node's end.
    #[serde(with = "serde_mac")]
    pub host_mac: MacAddr,
    /// The Ethernet address of the pod's end.
    #[serde(with = "serde_mac")]
    pub pod_mac: MacAddr,
    /// True if the pod's kernel passes on nothing larger than the MTU but TCP segments, up to [`Prepared::max_segment`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tcp_segments_only: bool,
}

/// The answer to [`ReadyRequest`]: the pod's packets are forwarded under its policy from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The attachment's number.
    pub attachment: u16,
    /// The time that the agent took, in milliseconds.
    pub took_ms: u64,
}

/// The answer to `GET /v1/readiness` when an ADD can be served; otherwise it is refused with code 50.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The node's name.
    pub node: String,
}

/// The state of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// Addresses are allocated, and the plugin has not sent *ready* yet.
    Prepared,
    /// The interface exists, but the pod is not known yet or its policy is not compiled. Nothing is forwarded.
    Waiting,
    /// The port forwards under the pod's policy.
    Forwarding,
    /// The interface has disappeared without a release, or its port could not be opened. Nothing is forwarded.
    Closed,
}

impl fmt::Display for AttachmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepared => "prepared",
            Self::Waiting => "waiting",
            Self::Forwarding => "forwarding",
            Self::Closed => "closed",
        })
    }
}

/// An attachment: the answer to `GET /v1/attachments/{container}/{ifname}`, and a row of the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The attachment's number, which stays the same when the agent restarts.
    pub attachment: u16,
    /// `CNI_CONTAINERID`.
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
    /// `CNI_NETNS`.
    pub netns: NetnsPath,
    /// The pod, if the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The name of the node's end of the veth.
    pub host_ifname: IfName,
    /// The interface index of the node's end, after *ready*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifindex: Option<u32>,
    /// The Ethernet address of the pod's end.
    #[serde(with = "serde_mac")]
    pub mac: MacAddr,
    /// The pod's addresses.
    #[serde(deserialize_with = "at_most::<_, _, MAX_ADDRESSES>")]
    pub addresses: Vec<IpAddr>,
    /// The ports of the node that lead to the pod.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "at_most::<_, _, MAX_PORT_MAPPINGS>"
    )]
    pub port_mappings: Vec<PortMapping>,
    /// The state.
    pub state: AttachmentState,
    /// The reason why it does not forward, for people; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// The answer to `DELETE /v1/attachments/{container}/{ifname}`. Releasing an attachment that does not exist is not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// True if there was an attachment of this name.
    pub existed: bool,
    /// The name of the node's end, which the plugin deletes if it still exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifname: Option<IfName>,
}

/// Decodes a list of at most `MAX` elements.
pub(crate) fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    if list.len() > MAX {
        return Err(D::Error::custom(format_args!(
            "{} elements: at most {MAX} are allowed",
            list.len()
        )));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREPARED: &str = r#"{"attachment":7,"host_ifname":"hdl7","mac":"02:00:00:00:00:07","mtu":61000,
        "addresses":[{"address":"10.1.0.7","gateway":"169.254.1.1"},{"address":"fd00::7","gateway":"fe80::1"}],
        "gateway_mac":"02:68:65:64:64:6c",
        "routes":[{"dst":"0.0.0.0/0","via":"169.254.1.1","mtu":1500},{"dst":"fd00::/64","via":"fe80::1"}],"new":1}"#;

    #[test]
    fn answers_accept_unknown_fields_and_requests_refuse_them() {
        let prepared: Prepared = serde_json::from_str(PREPARED).unwrap();
        assert_eq!(prepared.gateway_mac, MacAddr::GATEWAY);
        assert_eq!(prepared.routes[1].mtu, None);
        let again: Prepared = serde_json::from_str(&serde_json::to_string(&prepared).unwrap()).unwrap();
        assert_eq!(again, prepared);

        let request = r#"{"container":"c","ifname":"eth0","netns":"/run/netns/a"}"#;
        let decoded: PrepareRequest = serde_json::from_str(request).unwrap();
        assert_eq!(decoded.pod, None);
        let unknown = request.replace("{\"container", "{\"x\":1,\"container");
        assert!(serde_json::from_str::<PrepareRequest>(&unknown).is_err());
    }

    #[test]
    fn lists_are_bounded() {
        let five = format!(
            "[{}]",
            [r#"{"address":"10.1.0.7","gateway":"169.254.1.1"}"#; MAX_ADDRESSES + 1].join(",")
        );
        let start = PREPARED.find("[{\"address").unwrap();
        let end = PREPARED.find("}],").unwrap() + 2;
        let text = format!("{}{five}{}", &PREPARED[..start], &PREPARED[end..]);
        let e = serde_json::from_str::<Prepared>(&text).unwrap_err().to_string();
        assert!(e.contains("5 elements: at most 4"), "{e}");
    }
}
