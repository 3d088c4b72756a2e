//! The paths to other nodes, from their Node objects and the underlay, and the next hops of the uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heddle_model::Node;
use heddle_model::flannel::{self, FlannelNode, FlannelVtep};
use heddle_tables::{Exit, NextHop, NextHopId, NodePath, RemoteNode, SnapshotBuilder, TunnelMode, Unreachable};
use heddle_wire::vxlan::{OVERHEAD_V4, OVERHEAD_V6, OuterHeader};
use heddle_wire::{Ip, MacAddr};

use crate::config::NodeConfig;
use crate::node::nodes::flannel_of;
use crate::underlay::{Underlay, UnderlayRoute};

/// The inputs of a path besides the other node.
#[derive(Clone, Copy)]
pub(crate) struct PathInputs<'a> {
    pub(crate) config: &'a NodeConfig,
    pub(crate) underlay: &'a Underlay,
    /// This node's addresses of type InternalIP.
    pub(crate) own: &'a [IpAddr],
}

impl PathInputs<'_> {
    /// Returns another node with its path. `is_first` says if no other node before it, by name, has an address.
    pub(crate) fn remote_node(&self, node: &Node, is_first: impl Fn(IpAddr) -> bool) -> RemoteNode {
        if let Some(flannel) = flannel_of(node, self.config) {
            return self.flannel_node(node, flannel, is_first);
        }
        // The family of this node's first address comes first, as the API has it for clusters with both.
        let pair = self.own.iter().find_map(|own| {
            let same = |ip: &&IpAddr| ip.is_ipv4() == own.is_ipv4();
            Some((*own, *node.internal_ips.iter().find(same)?))
        });
        let path = match pair {
            None => Err(Unreachable::NoInternalIp),
            Some((_, address)) if !is_first(address) => Err(Unreachable::SharedInternalIp),
            Some((own, address)) => self.path(node, own, address),
        };
        let takes_own = self.vtep(node).is_some();
        // Without a tunnel, a router on the way would send a forwarded packet back, because its destination is this node's address.
        let is_neighbor = || pair.is_some_and(|(_, address)| self.underlay.is_on_link(address));
        RemoteNode {
            name: node.name.clone(),
            address: pair.map(|(_, address)| Ip::from(address)),
            takes_own,
            takes_forwarded: takes_own && path.is_ok_and(|path| path.outer.is_some() || is_neighbor()),
            path,
            path_v6: None,
        }
    }

    /// Returns a node on which Flannel runs, with a path for each family that both nodes have. Its own addresses are the kernel's:
    /// it masquerades pods, and Flannel's node answers as it answers everybody.
    fn flannel_node(&self, node: &Node, flannel: &FlannelNode, is_first: impl Fn(IpAddr) -> bool) -> RemoteNode {
        // The ends of a family's tunnel, and the Ethernet address of inner frames.
        let ends = |vtep: &Option<FlannelVtep>, is_right: fn(&IpAddr) -> bool| {
            let vtep = vtep.as_ref()?;
            let of_family = |all: &[IpAddr]| all.iter().copied().find(is_right);
            let address = vtep.address.or_else(|| of_family(&node.internal_ips))?;
            Some((of_family(self.own)?, address, vtep.clone()))
        };
        let path = |(own, address, vtep): &(IpAddr, IpAddr, FlannelVtep)| {
            if vtep.vni != self.config.tunnel.network.vni {
                Err(Unreachable::FlannelVni)
            } else if !is_first(*address) {
                Err(Unreachable::SharedInternalIp)
            } else {
                self.tunnel(*own, *address, MacAddr(vtep.mac.octets()))
            }
        };
        let (v4, v6) = (ends(&flannel.v4, IpAddr::is_ipv4), ends(&flannel.v6, IpAddr::is_ipv6));
        let first = v4.as_ref().or(v6.as_ref());
        RemoteNode {
            name: node.name.clone(),
            address: first.map(|(_, address, _)| Ip::from(*address)),
            takes_own: false,
            takes_forwarded: false,
            path: match first {
                _ if *flannel.backend != *flannel::VXLAN_BACKEND => Err(Unreachable::FlannelBackend),
                None => Err(Unreachable::FlannelWithoutVtep),
                Some(ends) => path(ends),
            },
            // Without a path of its own, IPv6 takes the one over IPv4: a kernel's device takes both families.
            path_v6: v4.as_ref().and(v6.as_ref()).and_then(|ends| path(ends).ok()),
        }
    }

    /// Returns the Ethernet address of inner frames to a node, if it runs heddle.
    fn vtep(&self, node: &Node) -> Option<MacAddr> {
        match node.vtep {
            Some(mac) => Some(MacAddr(mac.octets())),
            None if self.underlay.every_node_runs_heddle => Some(MacAddr::GATEWAY),
            None => None,
        }
    }

    fn path(&self, node: &Node, own: IpAddr, address: IpAddr) -> Result<NodePath, Unreachable> {
        let route = self.underlay.routes.get(&address).ok_or(Unreachable::NoRoute)?;
        let direct = match self.config.tunnel.mode {
            TunnelMode::Vxlan => false,
            TunnelMode::None => true,
            // Without a resolved neighbor the kernel would have to send the pod's packet, but can only send a tunnel's.
            TunnelMode::Auto => route.on_link && route.neighbor.is_some(),
        };
        if direct {
            return self.direct(route);
        }
        let vtep = self.vtep(node).ok_or(match node.flannel {
            Some(_) => Unreachable::Flannel,
            None => Unreachable::NoAnnotation,
        })?;
        self.tunnel(own, address, vtep)
    }

    /// Returns a path by a tunnel.
    fn tunnel(&self, own: IpAddr, address: IpAddr, vtep: MacAddr) -> Result<NodePath, Unreachable> {
        let route = self.underlay.routes.get(&address).ok_or(Unreachable::NoRoute)?;
        let network = self.config.tunnel.network;
        let hop = self.hop(route);
        let outer = OuterHeader::new(Ip::from(own), Ip::from(address), network.port, network.vni);
        let overhead = if address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        Ok(NodePath {
            // Both addresses are of one family, and the identifier was checked with the configuration.
            outer: Some(outer.ok_or(Unreachable::NoRoute)?.with_macs(hop.dst, hop.src)),
            next_hop: NextHop {
                dst: vtep,
                src: MacAddr::GATEWAY,
                exit: hop.exit,
            },
            mtu: self.mtu(route).saturating_sub(overhead),
        })
    }

    /// Returns a path without a tunnel. The kernel has a route for pods that leads to heddle, so it cannot send their packets.
    fn direct(&self, route: &UnderlayRoute) -> Result<NodePath, Unreachable> {
        let hop = self.hop(route);
        if hop.exit == Exit::Kernel {
            return Err(Unreachable::NoNeighbor);
        }
        Ok(NodePath {
            outer: None,
            next_hop: hop,
            mtu: self.mtu(route),
        })
    }

    /// Returns the next hop of a route.
    fn hop(&self, route: &UnderlayRoute) -> NextHop {
        match route.neighbor {
            Some(neighbor) if !self.underlay.uplink.ports.is_empty() => uplink_hop(self.underlay, neighbor),
            _ => kernel_hop(self.config),
        }
    }

    fn mtu(&self, route: &UnderlayRoute) -> u16 {
        match (self.config.uplink.direct, route.mtu) {
            (0, mtu) => mtu.unwrap_or_default(),
            (uplink, mtu) => mtu.unwrap_or(uplink).min(uplink),
        }
    }
}

const fn uplink_hop(underlay: &Underlay, neighbor: MacAddr) -> NextHop {
    NextHop {
        dst: neighbor,
        src: underlay.uplink.mac,
        exit: Exit::Uplink,
    }
}

const fn kernel_hop(config: &NodeConfig) -> NextHop {
    NextHop {
        dst: config.host_mac,
        src: MacAddr::GATEWAY,
        exit: Exit::Kernel,
    }
}

/// The next hops of the uplink: its neighbors, by which clients outside come.
///
/// Identifiers are given by neighbor and not given back while the agent runs, so that a flow never leads to another neighbor. They
/// do not outlive it: the engine learns the next hop of each client again after a start.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    ids: BTreeMap<IpAddr, NextHopId>,
    /// The neighbors in the tables, by Ethernet address. A neighbor may have several addresses.
    written: BTreeMap<MacAddr, NextHopId>,
}

impl NextHops {
    /// Writes the next hops.
    pub(crate) fn write(&mut self, underlay: &Underlay, config: &NodeConfig, tables: &mut SnapshotBuilder) {
        tables.set_next_hop(NextHopId::KERNEL, Some(kernel_hop(config)));
        let mut hops = BTreeMap::new();
        let mut by_mac = BTreeMap::new();
        if !underlay.uplink.ports.is_empty() {
            for (ip, mac) in &underlay.neighbors {
                if let Some(id) = self.id(*ip) {
                    hops.insert(id, uplink_hop(underlay, *mac));
                    by_mac.entry(*mac).or_insert(id);
                }
            }
        }
        let ids: BTreeSet<NextHopId> = self.ids.values().copied().collect();
        for id in ids {
            tables.set_next_hop(id, hops.get(&id).copied());
        }
        for gone in self.written.keys().filter(|mac| !by_mac.contains_key(*mac)) {
            tables.set_neighbor(*gone, None);
        }
        for (mac, id) in &by_mac {
            tables.set_neighbor(*mac, Some(*id));
        }
        self.written = by_mac;
    }

    /// Returns the identifier of a neighbor; `None` if all are taken.
    fn id(&mut self, neighbor: IpAddr) -> Option<NextHopId> {
        if let Some(id) = self.ids.get(&neighbor) {
            return Some(*id);
        }
        let next = usize::from(NextHopId::FIRST_NEIGHBOR.0) + self.ids.len();
        let id = NextHopId(u16::try_from(next).ok()?);
        self.ids.insert(neighbor, id);
        Some(id)
    }
}
