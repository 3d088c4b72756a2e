//! The underlay: the node's uplink, and how this node's packets reach each other node.
//!
//! The host task follows it live (`underlay_task`), because routes, neighbors and interfaces change at any time. The dataplane
//! builds the outer headers of tunnelled packets and the Ethernet headers of routed ones from it. This module has the values alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heddle_wire::MacAddr;
use ipnet::IpNet;

/// The underlay at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlay {
    /// The uplink; `None` while no interface is it.
    pub uplink: Option<UplinkFacts>,
    /// The paths to the nodes' addresses, or the reason why there is none.
    pub paths: BTreeMap<IpAddr, Result<NodePath, NoPath>>,
    /// The neighbors on the uplink whose Ethernet address can be used now. Neighbors on other interfaces are not in it.
    pub neighbors: BTreeMap<IpAddr, MacAddr>,
}

impl Underlay {
    /// Returns the reason why packets to a node cannot be sent now; `None` if they can, or if the node was not asked for.
    #[must_use]
    pub fn problem_of(&self, node: IpAddr) -> Option<String> {
        match self.paths.get(&node)? {
            Err(reason) => Some(reason.to_string()),
            Ok(path) if path.mac.is_some() => None,
            Ok(path) => {
                let uplink = self.uplink.as_ref().filter(|uplink| uplink.index == path.index);
                let interface = uplink.map_or_else(|| path.index.to_string(), |uplink| uplink.name.clone());
                let next_hop = path.next_hop(node);
                Some(format!(
                    "the next hop {next_hop} has no known Ethernet address on interface {interface}: it does not answer, or the \
                     interface has no carrier"
                ))
            }
        }
    }
}

/// The properties of the uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkFacts {
    /// The name.
    pub name: String,
    /// The interface index.
    pub index: u32,
    /// The Ethernet address; `None` if the interface has none, as a tunnel.
    pub mac: Option<MacAddr>,
    /// The MTU in bytes; 65,535 if the interface's MTU is larger.
    pub mtu: u16,
    /// `true` if the interface is administratively up and has a carrier.
    pub up: bool,
    /// The addresses with their prefixes, link-local ones too.
    pub addresses: BTreeSet<IpNet>,
    /// The receive queues in use; `None` if the kernel could not be asked. The kernel announces no change of them, so it is seen by the
    /// next whole look, at most 30 s later.
    pub queues: Option<u32>,
}

/// The path of this node's packets to an address of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePath {
    /// The index of the outgoing interface, which need not be the uplink.
    pub index: u32,
    /// The source address that the kernel chooses.
    pub source: IpAddr,
    /// The gateway; `None` if the node is on the link. It may be an IPv6 address also for an IPv4 node (RFC 5549), and an IPv6
    /// gateway is link-local as a rule.
    pub gateway: Option<IpAddr>,
    /// The path MTU in bytes that the route has or the kernel has learned; `None` for the interface's MTU.
    pub mtu: Option<u16>,
    /// The next hop's Ethernet address; `None` while it is not resolved.
    pub mac: Option<MacAddr>,
}

impl NodePath {
    /// Returns `true` if the node is on the link, without a gateway.
    #[must_use]
    pub const fn is_on_link(&self) -> bool {
        self.gateway.is_none()
    }

    /// Returns the address whose Ethernet address the frames carry: the gateway, or the node itself.
    #[must_use]
    pub fn next_hop(&self, node: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(node)
    }
}

/// The reason why there is no path to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// No route has the address.
    #[error("this node has no route to it")]
    NoRoute,
    /// The address is this node's own.
    #[error("the address is one of this node's own")]
    Local,
    /// A route or a policy rule refuses the packets, or the address is a group's.
    #[error(
        "a route of this node refuses it (unreachable, blackhole or prohibit), or it is a broadcast or multicast address"
    )]
    Unreachable,
    /// The node has a route, but no address of the family that packets could have as their source.
    #[error("this node has a route to it, but no source address of its family")]
    NoSource,
    /// The route leaves by an interface without Ethernet neighbors, as a tunnel or the loopback interface.
    #[error("the route to it leaves by interface {0}, which has no Ethernet neighbors")]
    NotEthernet(u32),
    /// The kernel could not be asked. The host task tries again.
    #[error("the kernel could not be asked for the route to it; heddle tries again")]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_problem_of_a_node_has_its_reason() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let path = NodePath {
            index: 3,
            source: ip("10.0.0.1"),
            gateway: None,
            mtu: None,
            mac: None,
        };
        let resolved = NodePath {
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            ..path
        };
        let routed = NodePath {
            gateway: Some(ip("fe80::1")),
            index: 4,
            ..path
        };
        let underlay = Underlay {
            uplink: Some(UplinkFacts {
                name: "eth0".to_owned(),
                index: 3,
                mac: None,
                mtu: 1500,
                up: true,
                addresses: BTreeSet::new(),
                queues: Some(1),
            }),
            paths: BTreeMap::from([
                (ip("10.0.0.2"), Ok(path)),
                (ip("10.0.0.3"), Ok(resolved)),
                (ip("10.0.0.4"), Ok(routed)),
                (ip("10.0.0.5"), Err(NoPath::NoRoute)),
            ]),
            neighbors: BTreeMap::new(),
        };
        let problem = |text| underlay.problem_of(ip(text)).unwrap_or_default();
        let unresolved = problem("10.0.0.2");
        assert!(
            unresolved.contains("next hop 10.0.0.2") && unresolved.contains("interface eth0"),
            "{unresolved}"
        );
        let unresolved = problem("10.0.0.4");
        assert!(
            unresolved.contains("next hop fe80::1") && unresolved.contains("interface 4"),
            "{unresolved}"
        );
        assert_eq!(problem("10.0.0.5"), "this node has no route to it");
        assert_eq!(
            (problem("10.0.0.3"), problem("10.0.0.6")),
            (String::new(), String::new())
        );
    }
}
