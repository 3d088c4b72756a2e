//! The properties of the node that come from the agent's configuration and state directory, not from objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_model::ExternalForwarding;
use heddle_tables::{NodeId, Prefix, Tunnel, TunnelMode};
use heddle_wire::{Ip, MacAddr, vxlan};

/// The MTU of paths that leave the node by its uplink. 0: unknown, no limit is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UplinkMtu {
    /// The MTU of the uplink. The host port has the same.
    pub direct: u16,
    /// The MTU of an inner packet that the tunnel carries over the uplink.
    pub overlay: u16,
}

impl UplinkMtu {
    /// Returns the MTUs for an uplink with this MTU. `over_ipv6`: nodes reach each other over IPv6.
    #[must_use]
    pub const fn new(mtu: u16, over_ipv6: bool) -> Self {
        let header = if over_ipv6 {
            vxlan::OVERHEAD_V6
        } else {
            vxlan::OVERHEAD_V4
        };
        Self {
            direct: mtu,
            overlay: mtu.saturating_sub(header),
        }
    }
}

/// The tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// The nodes that are reached by one.
    pub mode: TunnelMode,
    /// Their network identifier and port.
    pub network: Tunnel,
}

impl TunnelConfig {
    /// Returns the tunnels' network, if the node sends or receives by any.
    #[must_use]
    pub const fn network(&self) -> Option<Tunnel> {
        match self.mode {
            TunnelMode::Vxlan | TunnelMode::Auto => Some(self.network),
            TunnelMode::None => None,
        }
    }
}

impl Default for TunnelConfig {
    /// Returns VXLAN with the identifier 1 and the port of IANA.
    fn default() -> Self {
        Self {
            mode: TunnelMode::Vxlan,
            network: Tunnel {
                vni: 1,
                port: vxlan::PORT,
            },
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
    /// The first and the last port that heddle masquerades to.
    pub masquerade_ports: (u16, u16),
    /// The MTU of attachments that have none of their own; 0: unknown.
    pub local_mtu: u16,
    /// The MTU of the path that leaves the node.
    pub uplink: UplinkMtu,
    /// The tunnels to other nodes.
    pub tunnel: TunnelConfig,
    /// The Ethernet address of inner frames to this node.
    pub vtep: MacAddr,
    /// Nodes without heddle are reached as Flannel's annotations say.
    pub flannel: bool,
    /// The ranges of Services; empty: the ranges in ServiceCIDR objects.
    pub service_cidrs: Vec<Prefix>,
    /// The ranges outside of the cluster for which the kernel does not masquerade pods.
    pub unmasqueraded: Vec<Prefix>,
    /// Serves `spec.externalIPs` of Services. Whoever may write a Service can take over any address with them.
    pub external_ips: bool,
    /// The way of connections from outside to backends on other nodes, for Services without an annotation.
    pub external_forwarding: ExternalForwarding,
    /// The identifiers that other nodes had before the agent's restart. New nodes get unused ones.
    pub node_ids: BTreeMap<Arc<str>, NodeId>,
}

impl NodeConfig {
    /// Returns the configuration of a node with this name, and with defaults for the rest.
    #[must_use]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        Self {
            vtep: MacAddr::of_vtep(&name),
            name,
            host_mac: MacAddr::default(),
            local_addresses: BTreeSet::new(),
            host_port: PortId(0),
            masquerade_ports: (0, 0),
            local_mtu: 0,
            uplink: UplinkMtu::default(),
            tunnel: TunnelConfig::default(),
            flannel: false,
            service_cidrs: Vec::new(),
            unmasqueraded: Vec::new(),
            external_ips: false,
            external_forwarding: ExternalForwarding::default(),
            node_ids: BTreeMap::new(),
        }
    }
}
