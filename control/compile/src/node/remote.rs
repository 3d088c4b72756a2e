//! Writes the other nodes, and follows the underlay.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_model::Node;
use heddle_tables::{EndpointId, NodeId, NodePath, RemoteNode};
use heddle_wire::Ip;

use crate::config::NodeConfig;
use crate::node::paths::PathInputs;
use crate::node::state::NodeState;
use crate::output::Output;
use crate::underlay::Underlay;

impl NodeState {
    /// Sets the underlay. Nodes whose way has not changed are not looked at.
    pub(crate) fn set_underlay(&mut self, underlay: Underlay, config: &NodeConfig, output: &mut Output) {
        let before = std::mem::replace(&mut self.underlay, underlay);
        if before.uplink != self.underlay.uplink {
            self.write_own_node(config, output);
        }
        if before.uplink != self.underlay.uplink
            || before.every_node_runs_heddle != self.underlay.every_node_runs_heddle
        {
            self.write_all_remote_nodes(config, output);
        } else {
            let routes = (&before.routes, &self.underlay.routes);
            let all = routes.0.keys().chain(routes.1.keys());
            let changed = all
                .filter(|ip| routes.0.get(*ip) != routes.1.get(*ip))
                .map(|ip| Ip::from(*ip));
            let changed: BTreeSet<Ip> = changed.collect();
            self.write_remote_nodes_at(&changed, config, output);
        }
        self.write_next_hops(config, output);
    }

    /// Writes the next hops of the uplink.
    pub(crate) fn write_next_hops(&mut self, config: &NodeConfig, output: &mut Output) {
        self.next_hops.write(&self.underlay, config, &mut output.tables);
    }

    /// Writes all other nodes.
    pub(crate) fn write_all_remote_nodes(&self, config: &NodeConfig, output: &mut Output) {
        for (id, node) in self.nodes.iter() {
            self.write(id, node, config, output);
        }
    }

    /// Writes the other nodes that have one of these addresses.
    pub(super) fn write_remote_nodes_at(&self, at: &BTreeSet<Ip>, config: &NodeConfig, output: &mut Output) {
        let known = at.iter().filter_map(|ip| self.addresses.get(*ip));
        let names: BTreeSet<&Arc<str>> = known.flat_map(|known| known.claims.nodes()).collect();
        for name in names {
            self.write_remote_node(name, config, output);
        }
    }

    /// Writes another node, if it has an object.
    pub(super) fn write_remote_node(&self, name: &str, config: &NodeConfig, output: &mut Output) {
        if let Some((id, node)) = self.nodes.get(name) {
            self.write(id, node, config, output);
        }
    }

    /// Removes another node.
    pub(super) fn remove_remote_node(&self, id: NodeId, output: &mut Output) {
        if output.tables.current().remote_node(id).is_some() {
            output.tables.set_remote_node(id, None);
            output.generations.raise(EndpointId::UPLINK);
        }
    }

    fn write(&self, id: NodeId, node: &Node, config: &NodeConfig, output: &mut Output) {
        let inputs = PathInputs {
            config,
            underlay: &self.underlay,
            own: self.own.facts.internal_ips(),
        };
        let after = inputs.remote_node(node, |address| self.is_first_at(&node.name, address));
        if let Some(before) = output.tables.current().remote_node(id) {
            if **before == after {
                return;
            }
            if changes_flows(before, &after) {
                output.generations.raise(EndpointId::UPLINK);
            }
        }
        output.tables.set_remote_node(id, Some(Arc::new(after)));
    }

    /// Returns true if a node is the one that an address counts for.
    fn is_first_at(&self, name: &Arc<str>, address: IpAddr) -> bool {
        self.addresses.get(Ip::from(address)).is_some_and(|known| {
            let mut present = known.claims.nodes().iter().filter(|name| self.nodes.id(name).is_some());
            !known.claims.is_host() && present.next() == Some(name)
        })
    }
}

/// Returns true if flows have compiled something that differs: the path's MTU, its kind, whether the node's own addresses are
/// reached by it, or whether connections are forwarded to it. They read everything else of the path for each packet.
fn changes_flows(before: &RemoteNode, after: &RemoteNode) -> bool {
    let compiled = |path: &NodePath| (path.mtu, path.outer.is_some());
    let of = |node: &RemoteNode| {
        let path = node.path.as_ref().map(compiled).ok();
        (
            node.takes_own,
            path.map(|path| (path, node.takes_forwarded, node.path_v6.as_ref().map(compiled))),
        )
    };
    match (of(before), of(after)) {
        // Packets of a node that cannot be reached are dropped, and its flows are judged when it can be again.
        ((own, Some(_)), (also, None)) => own != also,
        (before, after) => before != after,
    }
}
