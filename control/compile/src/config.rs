//! What the agent knows about its node from configuration and from its state directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_tables::{HostPort, Masquerade, NodeId, Prefix};
use heddle_wire::MacAddr;

/// What fits the way out of the node. 0: not known, and not bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UplinkMtu {
    /// The MTU of the uplink, which is also that of the host port.
    pub direct: u16,
    /// What is left of it in a VXLAN header.
    pub overlay: u16,
}

impl UplinkMtu {
    /// What VXLAN adds over IPv4: outer IPv4, UDP and VXLAN headers, and the inner Ethernet header (RFC 7348 section 5).
    const OVER_IPV4: u16 = 20 + 8 + 8 + 14;
    /// The same over IPv6.
    const OVER_IPV6: u16 = 40 + 8 + 8 + 14;

    /// For an uplink of that MTU; nodes reach each other over IPv6, or over IPv4.
    #[must_use]
    pub const fn new(mtu: u16, over_ipv6: bool) -> Self {
        let header = if over_ipv6 { Self::OVER_IPV6 } else { Self::OVER_IPV4 };
        Self {
            direct: mtu,
            overlay: mtu.saturating_sub(header),
        }
    }
}

/// The node for which tables are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// `metadata.name` of its Node.
    pub name: Arc<str>,
    /// The host port.
    pub host: HostPort,
    /// The first of the host's ports.
    pub host_port: PortId,
    /// The MAC of the NIC.
    pub uplink_mac: MacAddr,
    /// The first of the NIC's ports.
    pub uplink_port: PortId,
    /// To what heddle masquerades.
    pub masquerade: Masquerade,
    /// The MTU of attachments that name none; 0: not known.
    pub local_mtu: u16,
    /// The MTU of the uplink and of what lies behind it.
    pub uplink: UplinkMtu,
    /// The ranges of Services; empty: those of the ServiceCIDR objects.
    pub service_cidrs: Vec<Prefix>,
    /// Whether `spec.externalIPs` of Services are served: whoever may write a Service takes over any address by them.
    pub external_ips: bool,
    /// The numbers that other nodes have had before. New nodes get numbers that are free here.
    pub node_ids: BTreeMap<Arc<str>, NodeId>,
}

impl NodeConfig {
    /// A node of which nothing but the name is known; the rest is to be filled in.
    #[must_use]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            host: HostPort::default(),
            host_port: PortId(0),
            uplink_mac: MacAddr::default(),
            uplink_port: PortId(0),
            masquerade: Masquerade::default(),
            local_mtu: 0,
            uplink: UplinkMtu::default(),
            service_cidrs: Vec::new(),
            external_ips: false,
            node_ids: BTreeMap::new(),
        }
    }
}
