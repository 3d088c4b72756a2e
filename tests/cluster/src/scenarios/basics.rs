//! A Deployment over the nodes, reached by ClusterIP, by name and by NodePort, in both families.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::LabError;

use crate::cluster::{Cluster, fault};
use crate::workload::{PORT, SERVICE_PORT, deployment, idle_container, pod, service, web_container};

const NAMESPACE: &str = "services";

pub(super) fn services(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let replicas = 2 * cluster.nodes().len() as u32;
    let first = cluster.nodes()[0].name().to_owned();
    cluster.apply(&[
        deployment(NAMESPACE, "web", replicas, &web_container()),
        service(NAMESPACE, "web", "web", "NodePort"),
        pod(NAMESPACE, "client", Some(&first), &idle_container()),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/client"])?;

    // Every pod, by its own address, whatever its node.
    let pods = cluster.pods(NAMESPACE, "app=web")?;
    let on = |name: &str| pods.iter().filter(|pod| pod.node == name).count();
    if cluster.nodes().iter().any(|node| on(node.name()) == 0) {
        return Err(fault("the Deployment", format!("it is not on every node: {pods:?}")));
    }
    for pod in &pods {
        for ip in &pod.ips {
            let url = url(*ip, PORT, "/hostname");
            let name = cluster.exec(NAMESPACE, "client", &["curl", "-sS", "-m", "5", &url])?;
            if name != pod.name {
                return Err(fault(&url, format!("{name:?} answered, not {}", pod.name)));
            }
        }
    }

    // By the Service's addresses and its name; all pods answer in turn.
    let object = cluster.get(&["service", "web", "--namespace", NAMESPACE])?;
    let addresses = object["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let mut targets: Vec<String> = vec![
        "http://web/hostname".to_owned(),
        "http://web.services.svc.cluster.local/hostname".to_owned(),
    ];
    for address in addresses {
        let ip: IpAddr = address
            .as_str()
            .unwrap_or_default()
            .parse()
            .map_err(|e| fault("a cluster IP", format!("{e}")))?;
        targets.push(url(ip, SERVICE_PORT, "/hostname"));
    }
    for target in &targets {
        let script = format!("for i in $(seq 60); do curl -sS -m 5 {target}; echo; done | sort -u");
        let names = cluster.exec(NAMESPACE, "client", &["sh", "-c", &script])?;
        let seen: Vec<&str> = names.lines().collect();
        let expected: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        if seen != expected {
            return Err(fault(target, format!("answers from {seen:?}, expected {expected:?}")));
        }
    }

    // From outside, by every node's port.
    let port = object["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0) as u16;
    for node in cluster.nodes() {
        for ip in node.addresses() {
            cluster.wait_for_answer(cluster.outside(), SocketAddr::new(ip, port), "/hostname", "web-")?;
        }
    }
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "{} pods on {} nodes answer by address, ClusterIP, name and NodePort {port}, in both families",
        pods.len(),
        cluster.nodes().len()
    ))
}

/// Returns the URL of a path at an address.
pub(super) fn url(ip: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(ip, port))
}
