//! 300 pods are created and deleted in waves while requests run between others. No request fails, no two pods have one address, and
//! at the end no address and no port is left over.

use std::collections::BTreeMap;
use std::time::Duration;

use heddle_lab::{LabError, wait_until};
use serde_json::Value;

use crate::cluster::{Cluster, READY_BOUND, fault};
use crate::load::Load;
use crate::workload::{deployment, idle_container, pod, service, web_container};

const NAMESPACE: &str = "churn";
const WAVES: u32 = 5;
const PODS_PER_WAVE: u32 = 60;
/// The machine is full of starting containers, so an answer may take its time. A lost packet would take a second more.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    cluster.apply(&[
        deployment(NAMESPACE, "web", cluster.nodes().len() as u32, &web_container()),
        service(NAMESPACE, "web", "web", "NodePort"),
        pod(NAMESPACE, "client", None, &idle_container()),
        deployment(NAMESPACE, "wave", 0, &idle_container()),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/client"])?;
    let before = used(cluster)?;
    let client = cluster.pods(NAMESPACE, "app=client")?;
    let client = client.first().ok_or_else(|| fault("the client", "it does not run"))?;
    let client = cluster.netns_of(NAMESPACE, client)?;
    let (inside, outside) = super::rolling_update::addresses(cluster, NAMESPACE, "web")?;
    let from_pod = Load::start(&[client], &inside, "/hostname", 2, ANSWER_BOUND)?;
    let from_outside = Load::start(&[cluster.outside().clone()], &outside, "/hostname", 2, ANSWER_BOUND)?;

    let scale = |replicas: u32| {
        let replicas = format!("--replicas={replicas}");
        cluster.kubectl(&["scale", "deployment/wave", "--namespace", NAMESPACE, &replicas])
    };
    for _ in 0..WAVES {
        scale(PODS_PER_WAVE)?;
        cluster.wait_for_rollout(NAMESPACE, "deployment/wave")?;
        addresses_are_unique(cluster)?;
        scale(0)?;
        // The next wave begins while the pods of this one end, as in a busy cluster: addresses are freed and handed out together.
        wait_until("half of the wave has ended", READY_BOUND, || {
            Ok(cluster.pods(NAMESPACE, "app=wave")?.len() <= PODS_PER_WAVE as usize / 2)
        })?;
    }
    let requests = from_pod.finish_without_failure("requests of a pod during the churn")?
        + from_outside.finish_without_failure("requests from outside during the churn")?;
    cluster.kubectl(&[
        "wait",
        "--for=delete",
        "pod",
        "--selector=app=wave",
        "--namespace",
        NAMESPACE,
        "--timeout=110s",
    ])?;
    let mut after = BTreeMap::new();
    wait_until("no address and no port is left over", READY_BOUND, || {
        after = used(cluster)?;
        Ok(after == before)
    })
    .map_err(|e| {
        fault(
            &e.to_string(),
            format!("before the churn {before:?}, after it {after:?}"),
        )
    })?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "{} pods in {WAVES} waves, {requests} requests were answered, nothing is left over",
        WAVES * PODS_PER_WAVE
    ))
}

/// Returns, for each node, the number of attachments, of ports, and of devices whose names begin with a port's prefix.
fn used(cluster: &Cluster) -> Result<BTreeMap<String, [usize; 3]>, LabError> {
    let mut used = BTreeMap::new();
    for node in cluster.nodes() {
        let status = cluster.agent_status(node)?;
        let count = |field: &str| status[field].as_array().map_or(0, Vec::len);
        let devices = node.run(&["ip", "-json", "link", "show", "type", "veth"])?.stdout;
        let devices: Value = serde_json::from_str(&devices).map_err(|e| fault("ip link", format!("{e}: {devices}")))?;
        let devices = devices.as_array().map_or(0, Vec::len);
        used.insert(node.name().to_owned(), [count("attachments"), count("ports"), devices]);
    }
    Ok(used)
}

/// Returns an error if two pods that have not ended have one address.
fn addresses_are_unique(cluster: &Cluster) -> Result<(), LabError> {
    let list = cluster.get(&["pods", "--all-namespaces"])?;
    let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if ended || pod["spec"]["hostNetwork"] == true {
            continue;
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        for ip in pod["status"]["podIPs"].as_array().into_iter().flatten() {
            let ip = ip["ip"].as_str().unwrap_or_default();
            if let Some(other) = holders.insert(ip, name) {
                return Err(fault("an address", format!("{ip} belongs to {name} and to {other}")));
            }
        }
    }
    Ok(())
}
