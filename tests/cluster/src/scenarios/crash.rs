//! The agent of each node is killed with SIGKILL under load: kubelet starts it again, and no open connection breaks.

use std::time::Duration;

use heddle_lab::{LabError, wait_until};

use super::connections::Connections;
use crate::cluster::{Cluster, READY_BOUND, SYSTEM, fault};
use crate::load::Load;
use crate::node::ClusterNode;
use crate::workload::{deployment, service, web_container};

const NAMESPACE: &str = "crash";
/// Packets to the node's pods wait for their repetition until the agent is back; kubelet may hold it back for some seconds.
const ANSWER_BOUND: Duration = Duration::from_secs(60);

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    cluster.apply(&[
        deployment(NAMESPACE, "web", 2 * cluster.nodes().len() as u32, &web_container()),
        service(NAMESPACE, "web", "web", "NodePort"),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    let connections = Connections::open(cluster, NAMESPACE)?;
    let (_, outside) = super::rolling_update::addresses(cluster, NAMESPACE, "web")?;
    let load = Load::start(&[cluster.outside().clone()], &outside, "/hostname", 4, ANSWER_BOUND)?;
    load.wait_for_answers(100)?;
    for node in cluster.nodes() {
        kill_agent(cluster, node)?;
        load.wait_for_answers(100)?;
        connections.check()?;
    }
    let open = connections.finish()?;
    let requests = load.finish_without_failure("requests from outside while agents are killed")?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "{open} open connections survived the death of each agent, {requests} requests were answered"
    ))
}

/// Kills a node's agent, and waits until another one is ready.
fn kill_agent(cluster: &Cluster, node: &ClusterNode) -> Result<(), LabError> {
    let before = cluster.agent_status(node)?["agent"]["pid"].clone();
    // The agent is the first process of its container. The node sees it under another number.
    let found = node.run(&["pgrep", "--exact", "heddle"])?;
    let pid = found.stdout.trim().to_owned();
    let killed = node.run(&["kill", "-KILL", &pid])?;
    if !killed.ok {
        return Err(fault(
            "killing the agent",
            format!("pid {pid:?} (in its container {before}): {}", killed.stderr),
        ));
    }
    wait_until("kubelet has seen the end of the agent", READY_BOUND, || {
        Ok(node.run(&["pgrep", "--exact", "heddle"])?.stdout.trim() != pid)
    })?;
    let agent = cluster.agent(node)?;
    cluster.wait(SYSTEM, &["--for=condition=Ready", &format!("pod/{agent}")])?;
    wait_until("the new agent answers", READY_BOUND, || {
        Ok(cluster.agent_status(node).is_ok())
    })
}
