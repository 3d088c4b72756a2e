//! NetworkPolicy between pods of one node and of two, and the answer to "which policy dropped it".

use heddle_lab::{LabError, wait_until};
use serde_json::json;

use super::basics::url;
use crate::cluster::{Cluster, READY_BOUND, fault};
use crate::workload::{PORT, idle_container, pod, web_container};

const NAMESPACE: &str = "policy";

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let nodes: Vec<String> = cluster.nodes().iter().map(|node| node.name().to_owned()).collect();
    let (near, far) = (nodes[0].as_str(), nodes[nodes.len() - 1].as_str());
    cluster.apply(&[
        pod(NAMESPACE, "server", Some(near), &web_container()),
        pod(NAMESPACE, "friend", Some(far), &idle_container()),
        pod(NAMESPACE, "stranger", Some(far), &idle_container()),
        pod(NAMESPACE, "neighbor", Some(near), &idle_container()),
    ])?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod", "--all"])?;
    let server = cluster.pods(NAMESPACE, "app=server")?;
    let server = server
        .first()
        .ok_or_else(|| fault("the server", "it does not run"))?
        .clone();
    let reach = |cluster: &Cluster, from: &str, v6: bool| -> Result<bool, LabError> {
        let url = url(server.ip(v6)?, PORT, "/hostname");
        let curl = [
            "exec",
            "--namespace",
            NAMESPACE,
            from,
            "--",
            "curl",
            "-sS",
            "-m",
            "1",
            &url,
        ];
        Ok(cluster.kubectl_output(&curl)?.stdout == "server")
    };
    let expect = |cluster: &Cluster, step: &str, reached: &[(&str, bool)]| -> Result<(), LabError> {
        for (from, expected) in reached {
            for v6 in [false, true] {
                let what = format!(
                    "{step}: {from} {} the server",
                    if *expected { "reaches" } else { "does not reach" }
                );
                wait_until(&what, READY_BOUND, || Ok(reach(cluster, from, v6)? == *expected))?;
            }
        }
        Ok(())
    };

    expect(
        cluster,
        "without a policy",
        &[("friend", true), ("stranger", true), ("neighbor", true)],
    )?;
    cluster.apply(&[json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": "only-friends"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": PORT}]}]
        }
    })])?;
    expect(
        cluster,
        "with the policy",
        &[("stranger", false), ("neighbor", false), ("friend", true)],
    )?;
    // kubelet's probes come from the node, which always reaches its pods.
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/server"])?;
    let node = cluster.node(&server.node)?;
    let drops = cluster.heddle(node, &["drops", "--pod", &format!("{NAMESPACE}/server")])?;
    if !drops.contains("only-friends") {
        return Err(fault("heddle drops", format!("it does not name the policy:\n{drops}")));
    }
    cluster.kubectl(&[
        "label",
        "pod",
        "stranger",
        "--namespace",
        NAMESPACE,
        "--overwrite",
        "app=friend",
    ])?;
    expect(cluster, "with the label", &[("stranger", true)])?;
    cluster.kubectl(&["delete", "networkpolicy", "only-friends", "--namespace", NAMESPACE])?;
    expect(cluster, "without it again", &[("neighbor", true)])?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok("a policy with a label lets the friend in, across nodes and families; heddle drops names the policy".to_owned())
}
