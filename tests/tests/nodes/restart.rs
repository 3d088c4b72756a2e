//! Agents that end and start again, while connections cross nodes and the nodes' own connections cross the uplinks.

use std::net::SocketAddr;

use heddle_lab::LabError;
use heddle_lab::traffic::{Conversation, ServerBehavior, Speaker, TcpServer};
use nix::sys::signal::Signal;

use crate::common::{BOUND, wait_until};
use crate::scene::{Cluster, PORT, ask, tells};

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
