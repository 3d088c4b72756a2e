//! Services.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::key::ObjectKey;
use crate::labels::Labels;
use crate::port::{PortNumber, Protocol};

/// `v1` `Service`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `metadata.namespace` and `metadata.name`
    pub key: ObjectKey,
    /// `spec.type`
    pub service_type: ServiceType,
    /// `spec.clusterIPs`, or `spec.clusterIP` where there is no list.
    pub cluster_ips: ClusterIps,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; none: the EndpointSlices come from elsewhere.
    pub selector: Option<Labels>,
    /// `spec.externalIPs`
    pub external_ips: Vec<IpAddr>,
    /// The entries of `status.loadBalancer.ingress[]` with an `ip`.
    pub load_balancer_ingress: Vec<LoadBalancerIngress>,
    /// `spec.loadBalancerSourceRanges`, or the annotation `service.beta.kubernetes.io/load-balancer-source-ranges`;
    /// empty: everyone.
    pub source_ranges: Vec<IpNet>,
    /// `spec.internalTrafficPolicy`
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`
    pub external_policy: TrafficPolicy,
    /// `spec.sessionAffinity` and `spec.sessionAffinityConfig`
    pub session_affinity: SessionAffinity,
    /// `spec.publishNotReadyAddresses`. For information: the writer of the slices already set `ready` by it.
    pub publish_not_ready: bool,
    /// `spec.healthCheckNodePort`
    pub health_check_node_port: Option<PortNumber>,
    /// `spec.trafficDistribution`
    pub traffic_distribution: Option<TrafficDistribution>,
    /// The label `service.kubernetes.io/service-proxy-name`: another proxy serves it.
    pub proxy_name: Option<Arc<str>>,
    /// The label `service.kubernetes.io/headless` is there, whatever its value: proxies leave the Service alone.
    pub headless_label: bool,
    /// The annotation `heddle.io/load-balancing`
    pub load_balancing: LoadBalancing,
    /// The annotation `heddle.io/external-forwarding`; `None`: as the configuration has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_forwarding: Option<ExternalForwarding>,
}

impl Service {
    /// Returns true if heddle serves it: it has cluster addresses, no other proxy claims it, and it has no headless label
    /// (kube-proxy selects the Services that it watches in the same way).
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        self.service_type != ServiceType::ExternalName
            && self.proxy_name.is_none()
            && !self.headless_label
            && !self.cluster_ips.get().is_empty()
    }

    /// Returns the load balancer addresses that nodes serve themselves. With `ipMode: Proxy` the load balancer has the
    /// address, and sends to node ports. As kube-proxy, nodes serve only the families of the cluster addresses.
    pub fn served_balancers(&self) -> impl Iterator<Item = IpAddr> {
        let served = self
            .load_balancer_ingress
            .iter()
            .filter(|ingress| ingress.mode == IngressMode::Vip && self.has_family_of(ingress.ip));
        served.map(|ingress| ingress.ip)
    }

    /// Returns the external addresses in the families of the cluster addresses.
    pub fn served_external_ips(&self) -> impl Iterator<Item = IpAddr> {
        let served = self.external_ips.iter().filter(|ip| self.has_family_of(**ip));
        served.copied()
    }

    /// Returns true if the Service has a cluster address of an address's family.
    fn has_family_of(&self, ip: IpAddr) -> bool {
        self.cluster_ips.get().iter().any(|own| own.is_ipv4() == ip.is_ipv4())
    }

    /// Returns every address of the Service: cluster, external and load balancer addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ingress = self.load_balancer_ingress.iter().map(|ingress| ingress.ip);
        self.cluster_ips
            .get()
            .iter()
            .chain(&self.external_ips)
            .copied()
            .chain(ingress)
    }
}

/// `spec.type`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// `ClusterIP`
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// `NodePort`: a cluster address, and a port on every node.
    NodePort,
    /// `LoadBalancer`: the same, and addresses of a load balancer.
    LoadBalancer,
    /// `ExternalName`: a DNS alias, nothing for a dataplane.
    ExternalName,
}

/// `spec.clusterIPs`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterIps {
    /// Not assigned yet, or an `ExternalName`.
    Unassigned,
    /// `None`: pods are found by DNS, there is nothing to translate.
    Headless,
    /// One, or one of each family.
    Addresses(Vec<IpAddr>),
}

impl ClusterIps {
    /// Returns the addresses; empty for a headless Service.
    #[must_use]
    pub fn get(&self) -> &[IpAddr] {
        match self {
            ClusterIps::Addresses(ips) => ips,
            ClusterIps::Unassigned | ClusterIps::Headless => &[],
        }
    }
}

/// One entry of `spec.ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; may be empty if there is only one port. EndpointSlices name their ports alike.
    pub name: Arc<str>,
    /// `protocol`
    pub protocol: Protocol,
    /// `port`
    pub port: PortNumber,
    /// `targetPort`. For information: EndpointSlices carry the resolved number.
    pub target_port: TargetPort,
    /// `nodePort`
    pub node_port: Option<PortNumber>,
}

/// `spec.ports[].targetPort`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number; by default the same as `port`.
    Number(PortNumber),
    /// The name of a container port of each pod.
    Name(Arc<str>),
}

/// One entry of `status.loadBalancer.ingress[]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerIngress {
    /// `ip`
    pub ip: IpAddr,
    /// `ipMode`
    pub mode: IngressMode,
}

/// `status.loadBalancer.ingress[].ipMode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IngressMode {
    /// Packets arrive with the address as their destination: nodes serve it themselves.
    #[default]
    #[serde(rename = "VIP")]
    Vip,
    /// Packets arrive for a node or a pod: the address belongs to the load balancer.
    Proxy,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// The endpoints of the node where the packet is.
    Local,
}

/// `spec.sessionAffinity`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionAffinity {
    /// Each connection is balanced alone.
    #[default]
    None,
    /// Connections of one client address go to one backend.
    ClientIp {
        /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`: 1 to 86,400, by default 10,800.
        timeout_seconds: u32,
    },
}

/// `spec.trafficDistribution`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// `PreferSameZone`, and its older name `PreferClose`.
    PreferSameZone,
    /// `PreferSameNode`
    PreferSameNode,
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadBalancing {
    /// By consistent hashing of the connection (rendezvous among few endpoints, Maglev among many): every node chooses alike.
    #[default]
    Maglev,
    /// At random.
    Random,
}

/// The way of a connection from outside of the cluster to a backend on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExternalForwarding {
    /// As this node's address: the answers come back by this node.
    #[default]
    Masquerade,
    /// With the client's address: the backend's node answers the client directly (direct server return).
    Dsr,
}

/// A text that is no [`ExternalForwarding`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not masquerade or dsr")]
pub struct UnknownExternalForwarding(String);

impl ExternalForwarding {
    /// Returns the name in the configuration and in the annotation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::Dsr => "dsr",
        }
    }
}

impl FromStr for ExternalForwarding {
    type Err = UnknownExternalForwarding;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Masquerade, Self::Dsr];
        let found = all.into_iter().find(|forwarding| forwarding.as_str() == text);
        found.ok_or_else(|| UnknownExternalForwarding(text.to_owned()))
    }
}

impl fmt::Display for ExternalForwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
