//! The scene of the suite: nodes in one network that know each other from their folders, and helpers to look at them.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::node_group::with_vtep;
pub use heddle_lab::node_group::{NodeGroup as Cluster, SERVICE_PORT, TELL_PORT as PORT};
use heddle_lab::traffic::{self, ProbeOutcome};
use heddle_lab::{LabError, NetNs, Node, NodePlan, manifests};
use serde_json::Value;

use crate::common::BOUND;

/// Returns the Node object of a node whose agent has said that its dataplane is up.
pub fn node_object(number: u8) -> Value {
    node_object_with(number, &node_addresses(number))
}

/// Returns the Node object of a node with these addresses of type InternalIP.
pub fn node_object_with(number: u8, internal_ips: &[IpAddr]) -> Value {
    let plan = NodePlan::new(&format!("node-{number}"), number);
    with_vtep(manifests::node(&plan.name, internal_ips, &plan.pod_cidrs))
}

/// Returns the addresses of a node.
pub fn node_addresses(number: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([192, 0, 2, number]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)]),
    ]
}

/// Runs `ip` in a namespace and returns its output.
pub fn ip(ns: &NetNs, arguments: &str) -> Result<String, LabError> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    ns.run("ip", &arguments)
}

/// Returns the status of another node, as this node sees it; null if it does not know the node.
pub fn seen(node: &Node, other: &str) -> Result<Value, LabError> {
    let status = node.status()?;
    let mut nodes = status["nodes"].as_array().into_iter().flatten();
    Ok(nodes.find(|seen| seen["name"] == other).cloned().unwrap_or_default())
}

/// Asks a server, and returns what it tells: its name, and the address that it sees.
pub fn ask(from: &NetNs, to: IpAddr, port: u16) -> Result<ProbeOutcome, LabError> {
    traffic::tcp_request(from, SocketAddr::new(to, port), "", BOUND)
}

/// Asserts that a server answers with its name and the address that it sees.
#[track_caller]
pub fn tells(outcome: &ProbeOutcome, name: &str, peer: IpAddr) {
    assert_eq!(*outcome, ProbeOutcome::Answered(format!("{name} {peer}")));
}
