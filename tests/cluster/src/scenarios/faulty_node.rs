//! Faults of a node, and where its administrator sees them: `kubectl describe pod` and `heddle status`.

use std::fs;
use std::process::Command;

use heddle_lab::{LabError, Process, wait_until};

use crate::cluster::{Cluster, READY_BOUND, SYSTEM, fault};
use crate::node::ClusterNode;
use crate::workload::{PORT, deployment, idle_container, pod, service, web_container};

const NAMESPACE: &str = "faulty-node";

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    // Pods of a node without an agent have no network, so the pods of this scenario are on the others.
    let without_agent = cluster.nodes()[1].name().to_owned();
    cluster.kubectl(&["cordon", &without_agent])?;
    cluster.apply(&[
        deployment(NAMESPACE, "web", 2, &web_container()),
        service(NAMESPACE, "web", "web", "ClusterIP"),
        pod(NAMESPACE, "client", None, &idle_container()),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/client"])?;
    foreign_network(cluster, &cluster.nodes()[0])?;
    kube_proxy(cluster, &cluster.nodes()[0])?;
    unfit(cluster, &cluster.nodes()[1])?;
    cluster.kubectl(&["uncordon", &without_agent])?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(
        "a foreign CNI configuration, a running kube-proxy and an unfit node are named, and harm nothing else"
            .to_owned(),
    )
}

/// A configuration that sorts before heddle's is named, and stays.
fn foreign_network(cluster: &Cluster, node: &ClusterNode) -> Result<(), LabError> {
    let path = node.file("/etc/cni/net.d/05-other.conflist");
    fs::write(
        &path,
        r#"{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "loopback"}]}"#,
    )
    .map_err(LabError::io(format!("writing {}", path.display())))?;
    let named = wait_for_warning(cluster, node, "05-other.conflist");
    fs::remove_file(&path).map_err(LabError::io(format!("removing {}", path.display())))?;
    named
}

/// A kube-proxy beside heddle is named, and Services go on.
fn kube_proxy(cluster: &Cluster, node: &ClusterNode) -> Result<(), LabError> {
    let kubeconfig = cluster.plane().dir().join("admin.kubeconfig");
    let log = node.dir().join("kube-proxy.log");
    let mut command = Command::new(cluster.programs().kubernetes("kube-proxy")?);
    let flags = |command: &mut Command| {
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--hostname-override={}", node.name()))
            .args([
                "--proxy-mode=nftables",
                "--conntrack-max-per-core=0",
                "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
            ]);
    };
    flags(&mut command);
    let mut proxy = Process::start(node.ns(), "kube-proxy", &mut command, &log)?;
    wait_for_warning(cluster, node, "kube-proxy").map_err(|e| fault(&e.to_string(), proxy.log_tail(5)))?;
    services_work(cluster)?;
    proxy.stop(nix::sys::signal::Signal::SIGTERM, READY_BOUND)?;
    let mut cleanup = Command::new(cluster.programs().kubernetes("kube-proxy")?);
    flags(&mut cleanup);
    cleanup.arg("--cleanup");
    let out = node.ns().enter(|| heddle_lab::run_with_input(&mut cleanup, ""))?;
    if !out.ok {
        return Err(fault("kube-proxy --cleanup", out.stderr));
    }
    wait_until("the warning about kube-proxy has gone", READY_BOUND, || {
        Ok(warning(cluster, node, "kube-proxy")?.is_none())
    })
}

/// A node that may not run heddle says why in the status of the agent's pod; the others go on.
fn unfit(cluster: &Cluster, node: &ClusterNode) -> Result<(), LabError> {
    // As after a kernel panic in the test of AF_XDP: the marker is from another boot of this kernel.
    let marker = node.file("/var/lib/heddle/afxdp-test");
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").map_err(LabError::io("reading the kernel's release"))?;
    let text = format!("{}\nanother-boot\n", kernel.trim());
    fs::write(&marker, text).map_err(LabError::io(format!("writing {}", marker.display())))?;
    let agent = cluster.agent(node)?;
    cluster.kubectl(&["delete", "pod", &agent, "--namespace", SYSTEM])?;
    let seen = wait_until("kubectl describe says why the node is unfit", READY_BOUND, || {
        let describe = [
            "describe",
            "pods",
            "--namespace",
            SYSTEM,
            "--selector=app.kubernetes.io/name=heddle",
        ];
        let text = cluster.kubectl(&describe)?;
        Ok(text.contains("restarted during an earlier test of AF_XDP"))
    });
    let works = seen.and_then(|()| services_work(cluster));
    fs::remove_file(&marker).map_err(LabError::io(format!("removing {}", marker.display())))?;
    works?;
    // kubelet tries the init container again with growing pauses.
    let agents = cluster.kubectl(&[
        "get",
        "pods",
        "--namespace",
        SYSTEM,
        "--selector=app.kubernetes.io/name=heddle",
        "--field-selector",
        &format!("spec.nodeName={}", node.name()),
        "--output=name",
    ])?;
    for agent in agents.lines() {
        cluster.kubectl(&["delete", agent, "--namespace", SYSTEM])?;
    }
    cluster.wait_for_rollout(SYSTEM, "daemonset/heddle")
}

fn services_work(cluster: &Cluster) -> Result<(), LabError> {
    let script = "for i in $(seq 20); do curl -sS -m 5 http://web/hostname; echo; done | sort -u | wc -l";
    let client = ["exec", "--namespace", NAMESPACE, "client", "--", "sh", "-c", script];
    wait_until("both pods of the Service answer", READY_BOUND, || {
        Ok(cluster.kubectl_output(&client)?.stdout.trim() == "2")
    })
    .map_err(|e| fault(&e.to_string(), format!("port {PORT} of namespace {NAMESPACE}")))
}

fn wait_for_warning(cluster: &Cluster, node: &ClusterNode, text: &str) -> Result<(), LabError> {
    wait_until(&format!("heddle status warns about {text}"), READY_BOUND, || {
        Ok(warning(cluster, node, text)?.is_some())
    })
}

/// Returns the row of `heddle status` that is not as it should be and contains this text.
fn warning(cluster: &Cluster, node: &ClusterNode, text: &str) -> Result<Option<String>, LabError> {
    let status = cluster.agent_status(node)?;
    let rows = status["checks"].as_array().into_iter().flatten();
    let found = rows
        .filter(|row| row["ok"] == false)
        .map(|row| format!("{} {}", row["what"], row["value"]))
        .find(|row| row.contains(text));
    Ok(found)
}
