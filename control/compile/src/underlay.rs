//! The network between the nodes, as the kernel of this node sees it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use heddle_tables::Uplink;
use heddle_wire::MacAddr;

/// The network between the nodes: the uplink, the kernel's routes to other nodes, and the uplink's neighbors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// The uplink's address and ports; empty while there is none.
    pub uplink: Uplink,
    /// The kernel's route to each InternalIP of other nodes. Without one, the node cannot be reached.
    pub routes: BTreeMap<IpAddr, UnderlayRoute>,
    /// The neighbors of the uplink that are resolved.
    pub neighbors: BTreeMap<IpAddr, MacAddr>,
    /// True if every node is taken to run heddle, whether its Node says so or not: for manifests that no agent has written to.
    pub every_node_runs_heddle: bool,
}

impl Underlay {
    /// Returns true if a node's address is on the same link.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        self.routes.get(&address).is_some_and(|route| route.on_link)
    }
}

/// The kernel's route to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderlayRoute {
    /// The next hop's Ethernet address, if it is a resolved neighbor of the uplink. Else the kernel sends packets to the node.
    pub neighbor: Option<MacAddr>,
    /// The node is on the same link.
    pub on_link: bool,
    /// The MTU of the route, if it has one of its own.
    pub mtu: Option<u16>,
}
