//! The API server is gone for two minutes: everything that runs goes on, and afterwards changes take effect.

use std::time::{Duration, Instant};

use heddle_lab::LabError;

use super::connections::Connections;
use crate::cluster::{Cluster, SYSTEM, fault};
use crate::load::Load;
use crate::workload::{deployment, service, web_container};

const NAMESPACE: &str = "away";
const AWAY: Duration = Duration::from_secs(120);
const ANSWER_BOUND: Duration = Duration::from_secs(5);

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let nodes = cluster.nodes().len() as u32;
    cluster.apply(&[
        deployment(NAMESPACE, "web", 2 * nodes, &web_container()),
        service(NAMESPACE, "web", "web", "NodePort"),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    let connections = Connections::open(cluster, NAMESPACE)?;
    let (_, outside) = super::rolling_update::addresses(cluster, NAMESPACE, "web")?;
    let load = Load::start(&[cluster.outside().clone()], &outside, "/hostname", 4, ANSWER_BOUND)?;
    load.wait_for_answers(100)?;

    cluster.plane_mut().kill_api_server()?;
    let gone = Instant::now();
    while gone.elapsed() < AWAY {
        cluster.check_stopped()?;
        load.wait_for_answers(100)?;
        connections.check()?;
    }
    cluster.plane_mut().start_api_server()?;
    let open = connections.finish()?;
    let requests = load.finish_without_failure("requests from outside while the API server is gone")?;

    // Nodes that could not report for so long may count as lost for a moment.
    cluster.wait(SYSTEM, &["--for=condition=Ready", "node", "--all"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/heddle")?;
    cluster.kubectl(&[
        "scale",
        "deployment/web",
        "--namespace",
        NAMESPACE,
        &format!("--replicas={}", 3 * nodes),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    let pods = cluster.pods(NAMESPACE, "app=web")?;
    if pods.len() != 3 * nodes as usize {
        return Err(fault("the Deployment afterwards", format!("{} pods run", pods.len())));
    }
    for pod in &pods {
        cluster.wait_for_answer(cluster.outside(), outside[0], "/hostname", &pod.name)?;
    }
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "{open} open connections and {requests} requests in two minutes without an API server"
    ))
}
