//! Nodes, namespaces, and the cluster's Service ranges.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::flannel::FlannelNode;
use crate::labels::Labels;
use crate::mac::MacAddress;

/// The label of every namespace that contains its name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The annotation of a Node by which its agent says that its dataplane is up: the Ethernet address that inner frames for the node
/// carry.
pub const VTEP_ANNOTATION: &str = "heddle.io/vtep";

/// `v1` `Node`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.labels`
    pub labels: Labels,
    /// `status.addresses[]` of type `InternalIP`, in their order: the first of a family is the node's own.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses[]` of type `ExternalIP`
    pub external_ips: Vec<IpAddr>,
    /// The annotation `heddle.io/vtep`: a dataplane of heddle runs on the node, and inner frames of tunnels to it carry this
    /// Ethernet address.
    #[serde(default)]
    pub vtep: Option<MacAddress>,
    /// Flannel's annotations, if flanneld or heddle in its place manages the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flannel: Option<FlannelNode>,
    /// `spec.podCIDRs`, or `spec.podCIDR` where there is no list: at most one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.conditions[]`: `Ready` is `True`.
    pub ready: bool,
    /// The node is about to go: `metadata.deletionTimestamp`, or the taint `ToBeDeletedByClusterAutoscaler`.
    pub draining: bool,
}

impl Node {
    /// Returns the label `topology.kubernetes.io/zone`.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.labels.get("topology.kubernetes.io/zone")
    }

    /// Returns Flannel's annotations, if Flannel runs there and no dataplane of heddle: a node that moves from one to the other may have
    /// the annotations of both.
    #[must_use]
    pub fn flannel_alone(&self) -> Option<&FlannelNode> {
        self.flannel.as_ref().filter(|_| self.vtep.is_none())
    }

    /// Returns true if the node has this address.
    #[must_use]
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.internal_ips.contains(&ip) || self.external_ips.contains(&ip)
    }
}

/// `v1` `Namespace`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.labels`, always with [`NAMESPACE_NAME_LABEL`], which the API server sets.
    pub labels: Labels,
}

/// `networking.k8s.io/v1` `ServiceCIDR`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `spec.cidrs`: one, or one of each family.
    pub cidrs: Vec<IpNet>,
}
