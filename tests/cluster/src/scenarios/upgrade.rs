//! `helm upgrade` to another image: one node after the other, and no open connection breaks.

use std::time::Duration;

use heddle_lab::{LabError, wait_until};

use super::connections::Connections;
use crate::cluster::{Cluster, READY_BOUND, SYSTEM, fault};
use crate::load::Load;
use crate::workload::{deployment, service, web_container};

const NAMESPACE: &str = "upgrade";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// While an agent is replaced, packets of its pods wait for their repetition.
const ANSWER_BOUND: Duration = Duration::from_secs(40);

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

    // The same program under another name: another image, as far as Kubernetes can see.
    let next = format!("{VERSION}-next");
    for node in cluster.nodes() {
        let image = |tag: &str| format!("docker.io/library/heddle:{tag}");
        let tag = [
            "ctr",
            "--namespace",
            "k8s.io",
            "images",
            "tag",
            "--force",
            &image(VERSION),
            &image(&next),
        ];
        let out = node.run(&tag)?;
        if !out.ok {
            return Err(fault("ctr images tag", out.stderr));
        }
    }
    let set = format!("image.tag={next}");
    cluster.helm(&[
        "upgrade",
        "heddle",
        "configs/helm/heddle",
        "--namespace",
        SYSTEM,
        "--set",
        &set,
    ])?;
    most_one_unavailable(cluster)?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/heddle")?;
    load.wait_for_answers(100)?;
    connections.check()?;
    let upgraded = connections.finish()?;
    let requests = load.finish_without_failure("requests from outside during an upgrade")?;

    // And back, by a restart of the DaemonSet's own.
    cluster.helm(&["rollback", "heddle", "1", "--namespace", SYSTEM])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/heddle")?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "{upgraded} open connections survived an upgrade of all nodes, {requests} requests were answered"
    ))
}

/// Watches the DaemonSet until all agents are new: at no time is more than one not available.
fn most_one_unavailable(cluster: &Cluster) -> Result<(), LabError> {
    wait_until("all agents are new", 2 * READY_BOUND, || {
        let status = &cluster.get(&["daemonset", "heddle", "--namespace", SYSTEM])?["status"];
        let count = |field: &str| status[field].as_u64().unwrap_or(0);
        if count("numberUnavailable") > 1 {
            return Err(fault(
                "the upgrade",
                format!("several agents are not available: {status}"),
            ));
        }
        Ok(count("updatedNumberScheduled") == count("desiredNumberScheduled") && count("numberUnavailable") == 0)
    })
}
