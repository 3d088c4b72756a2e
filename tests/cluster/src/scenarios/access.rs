//! `kubectl exec`, `logs`, `port-forward`, `debug`, and the API server's proxy to pods and Services.

use std::process::Command;
use std::time::Duration;

use heddle_lab::{LabError, Process, wait_until};

use crate::cluster::{Cluster, READY_BOUND, fault};
use crate::workload::{AGNHOST, PORT, SERVICE_PORT, pod, service, web_container};

const NAMESPACE: &str = "access";
/// The local port of `kubectl port-forward`, on the machine of the control plane.
const FORWARDED: u16 = 18_080;

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let last = cluster.nodes()[cluster.nodes().len() - 1].name().to_owned();
    cluster.apply(&[
        pod(NAMESPACE, "web", Some(&last), &web_container()),
        service(NAMESPACE, "web", "web", "ClusterIP"),
    ])?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/web"])?;

    let name = cluster.exec(NAMESPACE, "web", &["hostname"])?;
    expect("kubectl exec", &name, "web")?;
    // 3 MB by the stream of exec.
    let bytes = cluster.exec(NAMESPACE, "web", &["head", "-c", "3000000", "/dev/zero"])?;
    expect("the octets of exec", &bytes.len().to_string(), "3000000")?;
    let logs = cluster.kubectl(&["logs", "web", "--namespace", NAMESPACE])?;
    expect("kubectl logs", &logs, "Started HTTP server on port 8080")?;

    for target in ["pods/web:8080", "services/web:http"] {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/{target}/proxy/hostname");
        let answer = cluster.kubectl(&["get", "--raw", &path])?;
        expect(&path, &answer, "web")?;
    }
    forward_port(cluster)?;

    // An ephemeral container is in the pod's network.
    let image = format!("--image={AGNHOST}");
    let script = format!("curl -sS http://127.0.0.1:{PORT}/hostname");
    let debug = [
        "debug",
        "web",
        "--namespace",
        NAMESPACE,
        &image,
        "--container=debug",
        "--",
        "sh",
        "-c",
        &script,
    ];
    cluster.kubectl(&debug)?;
    wait_until(
        "the ephemeral container has printed the pod's name",
        READY_BOUND,
        || {
            let logs = ["logs", "web", "--namespace", NAMESPACE, "--container=debug"];
            Ok(cluster.kubectl_output(&logs)?.stdout == "web")
        },
    )?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok("exec, logs, port-forward, the API server's proxy and an ephemeral container work".to_owned())
}

fn forward_port(cluster: &Cluster) -> Result<(), LabError> {
    let plane = cluster.plane();
    let mut command = plane.kubectl_command();
    let port = format!("{FORWARDED}:{SERVICE_PORT}");
    command.args(["port-forward", "--namespace", NAMESPACE, "service/web", &port]);
    let mut forward = Process::start(
        plane.ns(),
        "port-forward",
        &mut command,
        &plane.dir().join("port-forward.log"),
    )?;
    let url = format!("http://127.0.0.1:{FORWARDED}/hostname");
    wait_until("the forwarded port answers", READY_BOUND, || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "2", &url]);
        Ok(cluster.at_workstation(&mut curl)?.stdout == "web")
    })
    .map_err(|e| fault(&e.to_string(), forward.log_tail(5)))?;
    forward
        .stop(nix::sys::signal::Signal::SIGTERM, Duration::from_secs(10))
        .map(drop)
}

fn expect(what: &str, seen: &str, expected: &str) -> Result<(), LabError> {
    if seen.contains(expected) {
        return Ok(());
    }
    Err(fault(what, format!("{seen:?} does not contain {expected:?}")))
}
