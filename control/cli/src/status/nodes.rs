//! The uplink and the other nodes.

use std::fmt::Write as _;

use heddle_proto::status::{NodeStatus, Status};

use crate::table::{finish, left, table};

/// The maximum number of rows of nodes. Nodes with a problem come first.
const ROWS: usize = 20;

/// Writes the uplink, and how many nodes are reached.
pub(super) fn head(status: &Status, out: &mut String) {
    let uplink = &status.uplink;
    let name = uplink.interface.as_deref().unwrap_or("unknown");
    let mode = match &uplink.mode {
        Some(mode) => format!("XDP in {mode} mode"),
        None => "NOT open".to_owned(),
    };
    let _ = writeln!(
        out,
        "uplink: {name}, {mode}, tunnel {}, VTEP {}",
        uplink.tunnel, uplink.vtep
    );
    if (uplink.encapsulated, uplink.decapsulated) != (0, 0) {
        let _ = writeln!(
            out,
            "tunnels: {} packets encapsulated, {} decapsulated",
            uplink.encapsulated, uplink.decapsulated
        );
    }
    for problem in &uplink.problems {
        let _ = writeln!(out, "  {problem}");
    }
    let nodes = &status.nodes;
    if !nodes.is_empty() {
        let reached = nodes.iter().filter(|node| node.path.is_some()).count();
        let _ = writeln!(out, "other nodes: {} of {} reached", reached, nodes.len());
    }
}

/// Writes the table of nodes.
pub(super) fn write(status: &Status, out: &mut String) {
    if status.nodes.is_empty() {
        return;
    }
    let mut nodes: Vec<&NodeStatus> = status.nodes.iter().collect();
    nodes.sort_by_key(|node| (node.problem.is_none(), node.name.as_str()));
    let mut table = table("other nodes", &["node", "address", "way", "by", "MTU", "problem"], out);
    let (shown, rest) = nodes.split_at(nodes.len().min(ROWS));
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for node in shown {
        table.add_row(vec![
            node.name.clone(),
            or_none(&node.address),
            or_none(&node.path),
            or_none(&node.via),
            node.mtu.to_string(),
            or_none(&node.problem),
        ]);
    }
    for column in [0, 1, 2, 3, 5] {
        left(&mut table, column);
    }
    finish(&table, 0, out);
    if !rest.is_empty() {
        let _ = writeln!(out, "and {} more: --output json shows all", rest.len());
    }
}
