//! `helm uninstall` and the cleanup Job: pods go on running, and nothing of heddle is left on a node.

use std::fs;

use heddle_lab::{LabError, wait_until};

use crate::cluster::{Cluster, READY_BOUND, SYSTEM, fault};
use crate::node::ClusterNode;
use crate::programs::project;
use crate::workload::{idle_container, pod};

const NAMESPACE: &str = "uninstall";

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    cluster.apply(&[pod(NAMESPACE, "stays", None, &idle_container())])?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/stays"])?;
    cluster.helm(&["uninstall", "heddle", "--namespace", SYSTEM, "--wait"])?;
    // Pods run on; kubelet and the container runtime need no network of theirs.
    cluster.exec(NAMESPACE, "stays", &["true"])?;

    let path = project().join("configs/cleanup.yaml");
    let job = fs::read_to_string(&path).map_err(LabError::io(format!("reading {}", path.display())))?;
    for node in cluster.nodes() {
        // As docs/install.md describes it: the Job for one node after the other.
        cluster.apply_text(&job.replace("nodeName: node-to-clean", &format!("nodeName: {}", node.name())))?;
        cluster.wait(SYSTEM, &["--for=condition=Complete", "job/heddle-cleanup"])?;
        cluster.kubectl(&[
            "delete",
            "job",
            "heddle-cleanup",
            "--namespace",
            SYSTEM,
            "--cascade=foreground",
        ])?;
        nothing_is_left(node)?;
    }
    let phase = cluster.kubectl(&[
        "get",
        "pod",
        "stays",
        "--namespace",
        NAMESPACE,
        "--output=jsonpath={.status.phase}",
    ])?;
    if phase != "Running" {
        return Err(fault("the pod", format!("it is {phase} after the cleanup")));
    }
    Ok(format!(
        "nothing of heddle is left on {} nodes, and the pods run on",
        cluster.nodes().len()
    ))
}

fn nothing_is_left(node: &ClusterNode) -> Result<(), LabError> {
    let mut left = Vec::new();
    wait_until("nothing of heddle is left", READY_BOUND, || {
        left.clear();
        for path in [
            "/etc/cni/net.d/10-heddle.conflist",
            "/opt/cni/bin/heddle-cni",
            "/run/heddle/agent.sock",
            "/var/lib/heddle/attachments.json",
        ] {
            if node.file(path).exists() {
                left.push(path.to_owned());
            }
        }
        for command in [
            &["ip", "-brief", "link"][..],
            &["nft", "list", "tables"],
            &["findmnt", "--list", "--noheadings", "--output=TARGET"],
            &["ip", "rule"],
        ] {
            let out = node.run(command)?.stdout;
            let lines = out
                .lines()
                .filter(|line| line.contains("heddle") && !line.contains("heddle/volumes"));
            left.extend(lines.map(|line| format!("{}: {line}", command[0])));
        }
        Ok(left.is_empty())
    })
    .map_err(|e| fault(&format!("{}: {e}", node.name()), left.join("\n")))
}
