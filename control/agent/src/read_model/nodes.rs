//! The uplink and the other nodes, for `heddle status`.

use heddle_proto::status::{NodeStatus, UplinkStatus};
use heddle_tables::{Exit, RemoteNode};
use heddle_wire::MacAddr;

use super::model::ReadModel;
use super::view::View;

impl ReadModel {
    /// Returns the state of the uplink.
    pub(super) fn uplink_status(&self, view: &View) -> UplinkStatus {
        let host = self.host.borrow();
        let seen = host.underlay.as_ref().and_then(|underlay| underlay.uplink.as_ref());
        let closed = view.uplink.closed.iter().cloned();
        let workers = self.workers.iter().map(|worker| worker.counters.totals());
        let (encapsulated, decapsulated) = workers.fold((0, 0), |(out, back), worker| {
            (out + worker.encapsulated, back + worker.decapsulated)
        });
        UplinkStatus {
            interface: seen.map(|uplink| uplink.name.clone()),
            mode: view.uplink.mode.map(|mode| mode.to_string()),
            tunnel: self.settings.tunnel.to_string(),
            vtep: MacAddr::of_vtep(&self.settings.node).to_string(),
            encapsulated,
            decapsulated,
            problems: closed.chain(host.underlay_problems.iter().cloned()).collect(),
        }
    }

    /// Returns the other nodes with the ways to them.
    pub(super) fn node_statuses(&self, view: &View) -> Vec<NodeStatus> {
        let underlay = self.host.borrow().underlay.clone();
        let seen = |node: &RemoteNode| {
            let address = node.address?.to_std();
            underlay.as_ref()?.problem_of(address)
        };
        let snapshot = view.snapshot.iter();
        let nodes = snapshot
            .flat_map(|snapshot| snapshot.remote_nodes())
            .map(|(_, node)| status(node, seen(node)));
        let mut nodes: Vec<NodeStatus> = nodes.collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }
}

/// Returns a node's status. `seen` is what the kernel lacks for it.
fn status(node: &RemoteNode, seen: Option<String>) -> NodeStatus {
    let path = node.path.as_ref().ok();
    let by_kernel = path.filter(|path| path.next_hop.exit == Exit::Kernel);
    // The kernel's reason is more exact than the table's.
    let missing = node
        .path
        .as_ref()
        .err()
        .map(|reason| match (reason.is_of_underlay(), &seen) {
            (true, Some(seen)) => seen.clone(),
            _ => reason.to_string(),
        });
    NodeStatus {
        name: node.name.to_string(),
        address: node.address.map(|address| address.to_std().to_string()),
        path: path.map(|path| if path.outer.is_some() { "tunnel" } else { "direct" }.to_owned()),
        via: path.map(|path| match path.next_hop.exit {
            Exit::Uplink => "uplink".to_owned(),
            Exit::Kernel => "kernel".to_owned(),
        }),
        mtu: path.map_or(0, |path| path.mtu),
        problem: missing.or_else(|| {
            by_kernel.map(|_| seen.unwrap_or_else(|| "its next hop is not behind the open uplink".to_owned()))
        }),
    }
}
