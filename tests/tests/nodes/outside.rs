//! Clients outside of the cluster reach Services at the nodes.

use heddle_lab::LabError;
use heddle_lab::traffic::ProbeOutcome;
use serde_json::json;

use crate::common::wait_until;
use crate::scene::{Cluster, ask};

const NODE_PORT: u16 = 30_080;

/// A backend on each node, or on one only, by the node port of each node.
#[test]
fn a_client_outside_reaches_node_ports_with_each_traffic_policy() -> Result<(), LabError> {
    let mut cluster = Cluster::start(2, "")?;
    for (node, name) in [(0, "near"), (1, "far")] {
        cluster.add_pod(node, name, name)?;
    }
    let addresses = ["10.96.0.80".parse().unwrap(), "fd00:10:96::80".parse().unwrap()];
    let outside = cluster.lab.outside();
    let clients = cluster.lab.outside_ips();
    for policy in ["Cluster", "Local"] {
        // The only backend is on node 2.
        let spec = json!({"type": "NodePort", "nodePort": NODE_PORT, "externalTrafficPolicy": policy});
        cluster.add_service("web", &addresses, &[1], &spec)?;
        for v6 in [false, true] {
            let [one, two] = [0, 1].map(|n| cluster.nodes[n].internal_ips()[usize::from(v6)]);
            let client = clients[usize::from(v6)];
            let answers = |node, peer| {
                let wanted = ProbeOutcome::Answered(format!("far {peer}"));
                wait_until("the node port leads to its backend", || {
                    Ok(ask(outside, node, NODE_PORT)? == wanted)
                })
            };
            match policy {
                "Local" => {
                    answers(two, client)?;
                    // No endpoint is on node 1.
                    wait_until("node 1 drops it", || Ok(!ask(outside, one, NODE_PORT)?.is_answered()))?;
                }
                _ => {
                    // Node 1 sends the connection on as its own. The backend's node masquerades as well, as kube-proxy does.
                    answers(one, one)?;
                    wait_until("node 2 serves it", || Ok(ask(outside, two, NODE_PORT)?.is_answered()))?;
                }
            }
        }
    }
    Ok(())
}
