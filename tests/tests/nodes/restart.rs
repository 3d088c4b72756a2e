//! Agents that end and start again, while connections cross nodes and the nodes' own connections cross the uplinks.

use std::net::SocketAddr;

use heddle_lab::LabError;
use heddle_lab::traffic::{self, Conversation, ServerBehavior, Speaker, TcpServer};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::common::{BOUND, SILENCE, wait_until};
use crate::scene::{Cluster, PORT, SERVICE_PORT, ask, tells};

const ECHO: u16 = 7777;

#[test]
fn connections_across_nodes_survive_agents() -> Result<(), LabError> {
    let mut cluster = Cluster::start(2, "")?;
    for (node, name) in [(0, "a"), (1, "b")] {
        cluster.add_pod(node, name, name)?;
    }
    let _in_pod = TcpServer::start(cluster.pods[1].ns(), ECHO, ServerBehavior::Echo)?;
    let _on_node = TcpServer::start(cluster.nodes[1].ns(), ECHO, ServerBehavior::Echo)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for restarted in [0, 1] {
            let to_pod = SocketAddr::new(cluster.pods[1].ip(false)?, ECHO);
            let to_node = SocketAddr::new(cluster.nodes[1].internal_ips()[0], ECHO);
            let pods = Conversation::start(cluster.pods[0].ns(), to_pod, Speaker::Client)?;
            // The node's own connection, by the kernel, over the NIC that has the uplink's program.
            let own = Conversation::start(cluster.nodes[0].ns(), to_node, Speaker::Client)?;
            pods.wait_for_rounds(5, BOUND)?;
            cluster.nodes[restarted].stop_agent(signal)?;
            own.wait_for_rounds(20, BOUND)?;
            cluster.nodes[restarted].start_agent()?;
            pods.wait_for_rounds(5, BOUND)?;
            own.wait_for_rounds(5, BOUND)?;
            pods.finish()?;
            own.finish()?;
            tells(
                &ask(cluster.pods[0].ns(), cluster.pods[1].ip(true)?, PORT)?,
                "b",
                cluster.pods[0].ip(true)?,
            );
        }
    }
    Ok(())
}

/// The replies of the pod come from a node without a tunnel to this node's own address. They are heddle's from the moment at which
/// the agent is ready: the kernel knows nothing of the connection's other address, the Service's, and would reset it.
#[test]
fn a_node_reaches_services_without_a_tunnel_as_soon_as_its_agent_is_back() -> Result<(), LabError> {
    const DIRECT: &str = "tunnel: none\n";
    let mut cluster = Cluster::start(2, DIRECT)?;
    cluster.add_pod(1, "web", "web")?;
    let addresses = ["10.96.0.80".parse().unwrap(), "fd00:10:96::80".parse().unwrap()];
    cluster.add_service("web", &addresses, &[0], &json!({}))?;
    let answer = |cluster: &Cluster, v6: bool| {
        let to = SocketAddr::new(addresses[usize::from(v6)], SERVICE_PORT);
        traffic::tcp_request(cluster.nodes[0].ns(), to, "", SILENCE)
    };
    for v6 in [false, true] {
        wait_until(
            "the Service has its backend",
            || Ok(answer(&cluster, v6)?.is_answered()),
        )?;
    }
    for _ in 0..3 {
        cluster.restart_agents(DIRECT)?;
        for v6 in [false, true] {
            let own = cluster.nodes[0].internal_ips()[usize::from(v6)];
            tells(&answer(&cluster, v6)?, "web", own);
        }
    }
    Ok(())
}

#[test]
fn cleanup_takes_the_program_off_the_uplink() -> Result<(), LabError> {
    let mut cluster = Cluster::start(1, "")?;
    let node = &mut cluster.nodes[0];
    let program = |node: &heddle_lab::Node| {
        node.ns()
            .run("ip", &["link", "show", "eth0"])
            .map(|text| text.contains("prog/xdp"))
    };
    // An agent is ready also while its uplink is not open yet.
    wait_until("the uplink has the program", || program(node))?;
    node.stop_agent(Signal::SIGKILL)?;
    assert!(program(node)?, "it stays without an agent");
    let out = node.cleanup()?;
    assert!(out.ok, "{out:?}");
    assert!(out.stdout.contains("uplink"), "{}", out.stdout);
    assert!(!program(node)?);
    assert!(!node.run_dir().join("bpf").exists());
    Ok(())
}
