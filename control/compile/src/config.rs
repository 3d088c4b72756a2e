//! The properties of the node that come from the agent's configuration and state directory, not from objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_tables::{NodeId, Prefix};
use heddle_wire::{Ip, MacAddr};

/// The MTU of paths that leave the node by its uplink. 0: unknown, no limit is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UplinkMtu {
    /// The MTU of the uplink. The host port has the same.
    pub direct: u16,
    /// The MTU of an inner packet that the tunnel carries over the uplink.
    pub overlay: u16,
}

impl UplinkMtu {
    /// The bytes that VXLAN adds over IPv4: outer IPv4, UDP and VXLAN headers, and the inner Ethernet header (RFC 7348
    /// section 5).
    const OVER_IPV4: u16 = 20 + 8 + 8 + 14;
    /// The bytes that VXLAN adds over IPv6.
    const OVER_IPV6: u16 = 40 + 8 + 8 + 14;

    /// Returns the MTUs for an uplink with this MTU. `over_ipv6`: nodes reach each other over IPv6.
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
    /// `metadata.name` of its Node object.
    pub name: Arc<str>,
    /// The MAC address of the host port.
    pub host_mac: MacAddr,
    /// The addresses that the node's interfaces have. Traffic between a pod and its node is allowed at any of them.
    pub local_addresses: BTreeSet<Ip>,
    /// The first of the host's ports.
    pub host_port: PortId,
    /// The MAC address of the uplink.
    pub uplink_mac: MacAddr,
    /// The first of the uplink's ports.
    pub uplink_port: PortId,
    /// The first and the last port that heddle masquerades to.
    pub masquerade_ports: (u16, u16),
    /// The MTU of attachments that have none of their own; 0: unknown.
    pub local_mtu: u16,
    /// The MTU of the path that leaves the node.
    pub uplink: UplinkMtu,
    /// The ranges of Services; empty: the ranges in ServiceCIDR objects.
    pub service_cidrs: Vec<Prefix>,
    /// Serves `spec.externalIPs` of Services. Whoever may write a Service can take over any address with them.
    pub external_ips: bool,
    /// The identifiers that other nodes had before the agent's restart. New nodes get unused ones.
    pub node_ids: BTreeMap<Arc<str>, NodeId>,
}

impl NodeConfig {
    /// Returns the configuration of a node with this name, and with defaults for the rest.
    #[must_use]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            host_mac: MacAddr::default(),
            local_addresses: BTreeSet::new(),
            host_port: PortId(0),
            uplink_mac: MacAddr::default(),
            uplink_port: PortId(0),
            masquerade_ports: (0, 0),
            local_mtu: 0,
            uplink: UplinkMtu::default(),
            service_cidrs: Vec::new(),
            external_ips: false,
            node_ids: BTreeMap::new(),
        }
    }
}
