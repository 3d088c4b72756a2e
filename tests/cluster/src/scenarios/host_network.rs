//! Pods on the host network that use ClusterIPs, and pods with a hostPort.

use std::net::SocketAddr;

use heddle_lab::LabError;
use serde_json::{Value, json};

use crate::cluster::{Cluster, fault};
use crate::workload::{PORT, deployment, idle_container, service, web_container};

const NAMESPACE: &str = "host-network";
const HOST_PORT: u16 = 9090;

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let mut with_port = web_container();
    with_port["ports"] = json!([{"containerPort": PORT, "hostPort": HOST_PORT}]);
    cluster.apply(&[
        deployment(NAMESPACE, "web", 2, &web_container()),
        service(NAMESPACE, "web", "web", "ClusterIP"),
        daemon_set("on-host", true, &idle_container()),
        daemon_set("host-port", false, &with_port),
    ])?;
    for what in ["deployment/web", "daemonset/on-host", "daemonset/host-port"] {
        cluster.wait_for_rollout(NAMESPACE, what)?;
    }
    let object = cluster.get(&["service", "web", "--namespace", NAMESPACE])?;
    let on_host = cluster.pods(NAMESPACE, "app=on-host")?;
    for pod in &on_host {
        for address in object["spec"]["clusterIPs"].as_array().into_iter().flatten() {
            let ip = address.as_str().unwrap_or_default().parse();
            let ip = ip.map_err(|e| fault("a cluster IP", format!("{e}: {address}")))?;
            let url = super::basics::url(ip, 80, "/hostname");
            let script = format!("for i in $(seq 20); do curl -sS -m 5 {url}; echo; done | sort -u | wc -l");
            let answers = cluster.exec(NAMESPACE, &pod.name, &["sh", "-c", &script])?;
            if answers.trim() != "2" {
                return Err(fault(
                    &url,
                    format!("{} pods answered {}, not 2", answers.trim(), pod.name),
                ));
            }
        }
    }
    // From outside, from the other pods and from the nodes themselves.
    let pods = cluster.pods(NAMESPACE, "app=host-port")?;
    let web = cluster.pods(NAMESPACE, "app=web")?;
    for pod in &pods {
        for ip in cluster.node(&pod.node)?.addresses() {
            let to = SocketAddr::new(ip, HOST_PORT);
            cluster.wait_for_answer(cluster.outside(), to, "/hostname", &pod.name)?;
            for from in web.iter().chain(&on_host) {
                let url = format!("http://{to}/hostname");
                let answer = cluster.exec(NAMESPACE, &from.name, &["curl", "-sS", "-m", "5", &url])?;
                if answer != pod.name {
                    return Err(fault(&url, format!("{answer:?} answered {}", from.name)));
                }
            }
        }
    }
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "{} pods on the host network reach ClusterIPs; {} host ports answer from outside, pods and nodes",
        on_host.len(),
        pods.len()
    ))
}

fn daemon_set(name: &str, host_network: bool, container: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "hostNetwork": host_network, "dnsPolicy": "ClusterFirstWithHostNet", "containers": [container],
                    "terminationGracePeriodSeconds": 10
                }
            }
        }
    })
}
