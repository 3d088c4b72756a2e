//! `kubectl drain` of a node under load, without a request that fails.

use std::time::Duration;

use heddle_lab::LabError;

use crate::cluster::{Cluster, fault};
use crate::load::Load;
use crate::workload::{deployment, service, web_container};

const NAMESPACE: &str = "drain";
const ANSWER_BOUND: Duration = Duration::from_secs(5);

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let replicas = 2 * cluster.nodes().len() as u32;
    let drained = cluster.nodes()[1].name().to_owned();
    cluster.apply(&[
        deployment(NAMESPACE, "web", replicas, &web_container()),
        service(NAMESPACE, "web", "web", "NodePort"),
        serde_json::json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"namespace": NAMESPACE, "name": "web"},
            "spec": {"maxUnavailable": 2, "selector": {"matchLabels": {"app": "web"}}}
        }),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    let (_, outside) = super::rolling_update::addresses(cluster, NAMESPACE, "web")?;
    // The drained node's own address stays in use: it is a node of the cluster as before.
    let load = Load::start(&[cluster.outside().clone()], &outside, "/hostname", 4, ANSWER_BOUND)?;
    load.wait_for_answers(100)?;
    let drain = [
        "drain",
        &drained,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--timeout=110s",
    ];
    cluster.kubectl(&drain)?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    let pods = cluster.pods(NAMESPACE, "app=web")?;
    if pods.iter().any(|pod| pod.node == drained) {
        return Err(fault("the drained node", format!("pods are left on it: {pods:?}")));
    }
    load.wait_for_answers(200)?;
    cluster.kubectl(&["uncordon", &drained])?;
    let requests = load.finish_without_failure("requests from outside while a node is drained")?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "{drained} was drained, {requests} requests were answered, none failed"
    ))
}
