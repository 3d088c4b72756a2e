//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;
use crate::port::{PortNumber, Protocol};

/// `discovery.k8s.io/v1` `EndpointSlice`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// `metadata.namespace` and `metadata.name`
    pub key: ObjectKey,
    /// The Service of the slice: its namespace and the label `kubernetes.io/service-name`.
    pub service: Option<ObjectKey>,
    /// The label `service.kubernetes.io/service-proxy-name`: another proxy serves it.
    pub proxy_name: Option<Arc<str>>,
    /// The label `service.kubernetes.io/headless`: it belongs to a headless Service, which no proxy serves.
    pub headless: bool,
    /// `addressType`
    pub address_type: AddressType,
    /// `ports`
    pub ports: Vec<EndpointPort>,
    /// `endpoints`; empty for [`AddressType::Fqdn`].
    pub endpoints: Vec<Endpoint>,
}

impl EndpointSlice {
    /// Returns true if heddle serves its Service.
    #[must_use]
    pub const fn is_proxied(&self) -> bool {
        self.proxy_name.is_none() && !self.headless
    }
}

/// `addressType`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressType {
    /// `IPv4`
    #[serde(rename = "IPv4")]
    V4,
    /// `IPv6`
    #[serde(rename = "IPv6")]
    V6,
    /// `FQDN`: names, which no proxy serves.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One entry of `ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointPort {
    /// `name`: the name of the Service's port; empty if it has none.
    pub name: Arc<str>,
    /// `protocol`
    pub protocol: Protocol,
    /// `port`; none: not to be proxied.
    pub port: Option<PortNumber>,
}

/// One entry of `endpoints[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses[0]`: the API forbids the use of the others.
    pub address: IpAddr,
    /// `conditions.ready`; absent counts as true. Never true for a terminating endpoint, unless its Service publishes
    /// addresses that are not ready.
    pub ready: bool,
    /// `conditions.serving`; absent counts as true.
    pub serving: bool,
    /// `conditions.terminating`; absent counts as false.
    pub terminating: bool,
    /// `nodeName`
    pub node: Option<Arc<str>>,
    /// `zone`
    pub zone: Option<Arc<str>>,
    /// `hints.forZones[].name`
    pub hint_zones: Vec<Arc<str>>,
    /// `hints.forNodes[].name`
    pub hint_nodes: Vec<Arc<str>>,
}
