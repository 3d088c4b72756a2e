//! A rolling update under constant load, without a request that fails.

use std::net::SocketAddr;
use std::time::Duration;

use heddle_lab::LabError;

use crate::cluster::{Cluster, fault};
use crate::load::Load;
use crate::workload::{deployment, idle_container, pod, service, web_container};

const NAMESPACE: &str = "rolling-update";
/// No packet is lost in an update, so no connection waits for a repetition.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let replicas = 2 * cluster.nodes().len() as u32;
    cluster.apply(&[
        deployment(NAMESPACE, "web", replicas, &web_container()),
        service(NAMESPACE, "web", "web", "NodePort"),
        pod(NAMESPACE, "client", None, &idle_container()),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/client"])?;
    let (inside, outside) = addresses(cluster, NAMESPACE, "web")?;
    let client = cluster.pods(NAMESPACE, "app=client")?;
    let client = client.first().ok_or_else(|| fault("the client", "it does not run"))?;
    let client = cluster.netns_of(NAMESPACE, client)?;

    let from_pod = Load::start(&[client], &inside, "/hostname", 4, ANSWER_BOUND)?;
    let from_outside = Load::start(&[cluster.outside().clone()], &outside, "/hostname", 4, ANSWER_BOUND)?;
    from_outside.wait_for_answers(100)?;
    for _ in 0..2 {
        cluster.kubectl(&["rollout", "restart", "deployment/web", "--namespace", NAMESPACE])?;
        cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    }
    // The old pods have gone, too.
    from_outside.wait_for_answers(200)?;
    let inside = from_pod.finish_without_failure("requests of a pod to the ClusterIP during two rolling updates")?;
    let outside =
        from_outside.finish_without_failure("requests from outside to the NodePort during two rolling updates")?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "two updates of {replicas} pods: {inside} requests of a pod and {outside} from outside, none failed"
    ))
}

/// Returns the addresses of a Service: its cluster IPs, and its NodePort at every node.
pub(super) fn addresses(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>), LabError> {
    let object = cluster.get(&["service", name, "--namespace", namespace])?;
    let port = &object["spec"]["ports"][0];
    let number = |field: &str| port[field].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    let cluster_ips = object["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let inside = cluster_ips
        .filter_map(|ip| Some(SocketAddr::new(ip.as_str()?.parse().ok()?, number("port"))))
        .collect();
    let nodes = cluster.nodes().iter().flat_map(crate::node::ClusterNode::addresses);
    let outside = nodes.map(|ip| SocketAddr::new(ip, number("nodePort"))).collect();
    Ok((inside, outside))
}
