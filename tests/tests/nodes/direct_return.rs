//! Direct server return: clients outside reach pods of another node than the one that they ask, pods see the clients, and the
//! answers do not come by the node that was asked.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::traffic::{self, Conversation, ProbeOutcome, ServerBehavior, Speaker, TcpServer};
use heddle_lab::{LabError, Node};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{BOUND, ask_json, wait_until};
use crate::scene::{Cluster, ask, tells};

const TELL_NODE_PORT: u16 = 30_080;
const ECHO_NODE_PORT: u16 = 30_081;
const ECHO: u16 = 7777;
const BULK: u64 = 4 << 20;

/// Two nodes, a pod on each, and Services whose only backend is on node 2: `tell` and `echo`.
fn cluster(config: &str, annotations: &Value) -> Result<Cluster, LabError> {
    let mut cluster = Cluster::start(2, config)?;
    for (node, name) in [(0, "near"), (1, "far")] {
        cluster.add_pod(node, name, name)?;
    }
    for (name, number, port, target) in [("tell", 80, TELL_NODE_PORT, 8080), ("echo", 81, ECHO_NODE_PORT, ECHO)] {
        let addresses = [
            IpAddr::from([10, 96, 0, number]),
            IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(number)]),
        ];
        let spec = json!({"type": "NodePort", "nodePort": port, "targetPort": target, "annotations": annotations});
        cluster.add_service(name, &addresses, &[1], &spec)?;
    }
    Ok(cluster)
}

/// Returns the addresses of a node and of the client outside, of a family.
fn ends(cluster: &Cluster, node: usize, v6: bool) -> (IpAddr, IpAddr) {
    let family = usize::from(v6);
    (
        cluster.nodes[node].internal_ips()[family],
        cluster.lab.outside_ips()[family],
    )
}

/// Waits until the pod answers the client outside by node 1, and sees this peer.
fn wait_for_peer(cluster: &Cluster, v6: bool, peer: IpAddr) -> Result<(), LabError> {
    let wanted = ProbeOutcome::Answered(format!("far {peer}"));
    wait_until("the pod sees the client at the right address", || {
        Ok(ask(cluster.lab.outside(), ends(cluster, 0, v6).0, TELL_NODE_PORT)? == wanted)
    })
}

/// Returns the connections to the port `echo` that a node has.
fn echo_flows(node: &Node) -> Result<Vec<Value>, LabError> {
    let answer = ask_json(node, "flows", &["--service", "shop/echo"])?;
    Ok(answer["flows"].as_array().cloned().unwrap_or_default())
}

fn directly(config: &str) -> Result<(), LabError> {
    let mut cluster = cluster(&format!("externalForwarding: dsr\n{config}"), &json!({}))?;
    let server = TcpServer::start(cluster.pods[1].ns(), ECHO, ServerBehavior::Echo)?;
    for v6 in [false, true] {
        let (node, client) = ends(&cluster, 0, v6);
        wait_for_peer(&cluster, v6, client)?;
        // The node of the pod itself, and a client that is a pod.
        tells(
            &ask(cluster.lab.outside(), ends(&cluster, 1, v6).0, TELL_NODE_PORT)?,
            "far",
            client,
        );
        tells(&ask(cluster.pods[0].ns(), node, TELL_NODE_PORT)?, "far", node);
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for restarted in [0, 1] {
            let (node, _) = ends(&cluster, 0, restarted == 1);
            let to = SocketAddr::new(node, ECHO_NODE_PORT);
            let talk = Conversation::start(cluster.lab.outside(), to, Speaker::Client)?;
            talk.wait_for_rounds(5, BOUND)?;
            // The node that was asked sees only the client's packets, and the pod's node both.
            let asked = echo_flows(&cluster.nodes[0])?;
            let at_pod = echo_flows(&cluster.nodes[1])?;
            let live = |flows: &[Value]| flows.iter().find(|flow| flow["state"] == "established").cloned();
            let (asked, at_pod) = (live(&asked).unwrap_or_default(), live(&at_pod).unwrap_or_default());
            assert_eq!(asked["forwarded"], true, "{asked}");
            assert_eq!(asked["packets_received"], 0, "{asked}");
            assert_eq!(at_pod["forwarded"], false, "{at_pod}");
            assert!(at_pod["packets_received"].as_u64() > Some(0), "{at_pod}");
            cluster.nodes[restarted].stop_agent(signal)?;
            cluster.nodes[restarted].start_agent()?;
            talk.wait_for_rounds(5, BOUND)?;
            talk.finish()?;
        }
    }
    drop(server);
    for v6 in [false, true] {
        let to = SocketAddr::new(ends(&cluster, 0, v6).0, ECHO_NODE_PORT);
        traffic::bulk(cluster.lab.outside(), cluster.pods[1].ns(), to, ECHO, BULK)?;
    }
    Ok(())
}

#[test]
fn by_the_tunnel_pods_see_clients_and_answer_them_directly() -> Result<(), LabError> {
    directly("")
}

#[test]
fn without_a_tunnel_pods_see_clients_and_answer_them_directly() -> Result<(), LabError> {
    directly("tunnel: none\n")
}

/// The annotation of a Service has precedence over the configuration, and a node that does not announce heddle gets a masqueraded
/// connection.
#[test]
fn the_annotation_decides_and_other_nodes_get_masqueraded_connections() -> Result<(), LabError> {
    let dsr = json!({"heddle.io/external-forwarding": "dsr"});
    let cluster = cluster("", &dsr)?;
    let (node, client) = ends(&cluster, 0, false);
    wait_for_peer(&cluster, false, client)?;
    let addresses = ["10.96.0.80".parse().unwrap(), "fd00:10:96::50".parse().unwrap()];
    let mut spec = json!({"type": "NodePort", "nodePort": TELL_NODE_PORT});
    cluster.add_service("tell", &addresses, &[1], &spec)?;
    wait_for_peer(&cluster, false, node)?;
    spec["annotations"] = json!({"heddle.io/external-forwarding": "sideways"});
    cluster.add_service("tell", &addresses, &[1], &spec)?;
    wait_until("the annotation is refused with its value", || {
        let status = cluster.nodes[0].status()?.to_string();
        Ok(status.contains("sideways") && status.contains("use masquerade or dsr"))
    })?;
    // The last good version serves.
    tells(&ask(cluster.lab.outside(), node, TELL_NODE_PORT)?, "far", node);
    Ok(())
}
