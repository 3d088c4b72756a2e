//! Start and steady state: pods, Services, policies, and what the controllers make of them.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::traffic::{self, ProbeOutcome};
use heddle_lab::{LabError, manifests};
use serde_json::json;

use crate::common::{BOUND, wait_until};
use crate::scene::{Cluster, Running, SERVICE_PORT, allow_only};

/// Waits until a Service answers from both of its addresses with the name of this backend, or refuses.
fn wait_for(client: &Running, addresses: [IpAddr; 2], expected: &ProbeOutcome) -> Result<(), LabError> {
    for address in addresses {
        let to = SocketAddr::new(address, SERVICE_PORT);
        wait_until(&format!("{to}: {expected:?}"), || {
            Ok(traffic::tcp_request(client.ns(), to, "", BOUND)? == *expected)
        })?;
    }
    Ok(())
}

fn answered(name: &str) -> ProbeOutcome {
    ProbeOutcome::Answered(name.to_owned())
}

#[test]
fn a_service_and_a_policy_take_effect_and_go() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("start", 1)?;
    let namespace = "start";
    cluster.plane.create_namespace(namespace, &[])?;
    let web = cluster.start_pod(&member.node, namespace, "web-1", &[("app", "web")])?;
    let client = cluster.start_pod(&member.node, namespace, "client", &[("app", "client")])?;
    let friend = cluster.start_pod(&member.node, namespace, "friend", &[("app", "friend")])?;

    // The controllers write the EndpointSlices.
    let addresses = cluster.create_service(namespace, "web")?;
    wait_for(&client, addresses, &answered("web-1"))?;

    let policy = allow_only(namespace, "web-from-friend", ("app", "web"), ("app", "friend"));
    cluster.plane.apply(std::slice::from_ref(&policy))?;
    client.waits_until_it_reaches(&web, false)?;
    for v6 in [false, true] {
        assert_eq!(friend.asks(&web, v6)?, answered("web-1"), "the policy allows it");
    }
    cluster.plane.remove(&[policy])?;
    client.waits_until_it_reaches(&web, true)?;

    // Many changes in a steady state cost no connection.
    let before = member.node.status()?;
    let labelled = |round: u32| {
        let mut object = manifests::namespace(namespace);
        object["metadata"]["labels"]["round"] = json!(round.to_string());
        object
    };
    cluster.plane.apply(&(0..30).map(labelled).collect::<Vec<_>>())?;
    let version = cluster.plane.apply_one(&labelled(30))?;
    wait_until("the last label arrives", || member.has_seen("Namespace", version))?;
    let after = member.node.status()?;
    for (kind, status) in after["source"]["kinds"].as_object().into_iter().flatten() {
        assert_eq!(
            status["reconnects"], before["source"]["kinds"][kind]["reconnects"],
            "{kind}: {status:#}"
        );
        assert!(
            status["error"].is_null() && status["synced"] == true,
            "{kind}: {status:#}"
        );
    }
    assert_eq!(after["source"]["age_seconds"], 0);
    assert_eq!(after["source"]["kind"], "kubernetes");
    Ok(())
}

#[test]
fn a_service_follows_its_pods() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("moves", 2)?;
    let namespace = "moves";
    cluster.plane.create_namespace(namespace, &[])?;
    let client = cluster.start_pod(&member.node, namespace, "client", &[])?;
    let addresses = cluster.create_service(namespace, "web")?;
    wait_for(&client, addresses, &ProbeOutcome::Refused)?;

    // A pod comes, another takes its place, and it becomes unready and ready again.
    let first = cluster.start_pod(&member.node, namespace, "web-1", &[("app", "web")])?;
    wait_for(&client, addresses, &answered("web-1"))?;
    let second = cluster.start_pod(&member.node, namespace, "web-2", &[("app", "web")])?;
    cluster.plane.end_pod(&member.node, &first.pod)?;
    wait_for(&client, addresses, &answered("web-2"))?;
    set_ready(&cluster, &second, "False")?;
    wait_for(&client, addresses, &ProbeOutcome::Refused)?;
    set_ready(&cluster, &second, "True")?;
    wait_for(&client, addresses, &answered("web-2"))?;

    // Its label decides, too.
    let label = |label: &str| {
        let pod = ["pod", "web-2", "--namespace", namespace, "--overwrite", label];
        cluster.plane.kubectl(&[&["label"], &pod[..]].concat())
    };
    label("app=other")?;
    wait_for(&client, addresses, &ProbeOutcome::Refused)?;
    label("app=web")?;
    wait_for(&client, addresses, &answered("web-2"))?;
    Ok(())
}

/// Writes the condition `Ready` of a pod, as kubelet does after a probe.
fn set_ready(cluster: &Cluster, pod: &Running, ready: &str) -> Result<(), LabError> {
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}}).to_string();
    let of = ["patch", "pod", &pod.pod.name, "--namespace", &pod.pod.namespace];
    let how = ["--subresource=status", "--type=merge", "--patch", &patch];
    cluster.plane.kubectl(&[&of[..], &how].concat()).map(drop)
}
