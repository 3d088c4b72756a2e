//! What the agent knows about its node from configuration and from its state directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_port::PortNo;
use heddle_tables::{HostPort, Masquerade, NodeNo, Prefix};
use heddle_wire::MacAddr;

/// The node for which tables are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// `metadata.name` of its Node.
    pub name: Arc<str>,
    /// The host port.
    pub host: HostPort,
    /// The first of the host's ports.
    pub host_port: PortNo,
    /// The MAC of the NIC.
    pub uplink_mac: MacAddr,
    /// The first of the NIC's ports.
    pub uplink_port: PortNo,
    /// To what heddle masquerades.
    pub masquerade: Masquerade,
    /// The largest packet that local pods and the host exchange.
    pub local_mtu: u16,
    /// The MTU of the uplink.
    pub uplink_mtu: u16,
    /// The ranges of Services; empty: those of the ServiceCIDR objects.
    pub service_cidrs: Vec<Prefix>,
    /// Whether `spec.externalIPs` of Services are served: whoever may write a Service takes over any address by them.
    pub external_ips: bool,
    /// The numbers that other nodes have had before. New nodes get numbers that are free here.
    pub node_numbers: BTreeMap<Arc<str>, NodeNo>,
}

impl NodeConfig {
    /// A node of which nothing but the name is known; the rest is to be filled in.
    #[must_use]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            host: HostPort::default(),
            host_port: PortNo(0),
            uplink_mac: MacAddr::default(),
            uplink_port: PortNo(0),
            masquerade: Masquerade::default(),
            local_mtu: 0,
            uplink_mtu: 0,
            service_cidrs: Vec::new(),
            external_ips: false,
            node_numbers: BTreeMap::new(),
        }
    }
}
