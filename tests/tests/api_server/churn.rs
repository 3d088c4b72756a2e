//! Namespaces and labels come and go; policies that select by them follow.

use heddle_lab::{LabError, manifests};
use serde_json::{Value, json};

use crate::scene::{Cluster, PORT, allow_only};

/// Returns a NetworkPolicy under which only the pods of namespaces with `team=blue` reach the pods of a namespace.
fn only_from_blue(namespace: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": "only-from-blue"},
        "spec": {
            "podSelector": {}, "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}],
                "ports": [{"protocol": "TCP", "port": PORT}]
            }]
        }
    })
}

#[test]
fn labels_of_namespaces_and_pods_open_and_close() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("labels", 3)?;
    let (inside, outside) = ("labels-inside", "labels-outside");
    cluster.plane.create_namespace(inside, &[])?;
    cluster.plane.create_namespace(outside, &[])?;
    let target = cluster.start_pod(&member.node, inside, "target", &[("app", "target")])?;
    let client = cluster.start_pod(&member.node, outside, "client", &[("app", "client")])?;
    cluster.plane.apply(&[only_from_blue(inside)])?;
    client.waits_until_it_reaches(&target, false)?;
    let label = |args: &[&str]| cluster.plane.kubectl(&[&["label", "--overwrite"], args].concat());
    for _ in 0..3 {
        label(&["namespace", outside, "team=blue"])?;
        client.waits_until_it_reaches(&target, true)?;
        label(&["namespace", outside, "team=red"])?;
        client.waits_until_it_reaches(&target, false)?;
    }
    // A burst of changes: the last one counts.
    let with_team = |team: &str| {
        let mut object = manifests::namespace(outside);
        object["metadata"]["labels"]["team"] = json!(team);
        object
    };
    let burst: Vec<Value> = ["red", "blue"].into_iter().cycle().take(20).map(with_team).collect();
    cluster.plane.apply(&burst)?;
    client.waits_until_it_reaches(&target, true)?;

    // Another policy selects by the labels of pods.
    cluster.plane.apply(&[allow_only(
        outside,
        "from-friends",
        ("app", "client"),
        ("app", "friend"),
    )])?;
    target.waits_until_it_reaches(&client, false)?;
    let friend = cluster.start_pod(&member.node, outside, "friend", &[("app", "friend")])?;
    friend.waits_until_it_reaches(&client, true)?;
    label(&["pod", "friend", "--namespace", outside, "app=stranger"])?;
    friend.waits_until_it_reaches(&client, false)?;
    label(&["pod", "friend", "--namespace", outside, "app=friend"])?;
    friend.waits_until_it_reaches(&client, true)
}

#[test]
fn a_namespace_ends_with_its_policies_and_comes_back_without_them() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("names", 4)?;
    let (stays, goes) = ("names-stays", "names-goes");
    cluster.plane.create_namespace(stays, &[])?;
    let client = cluster.start_pod(&member.node, stays, "client", &[])?;
    for _ in 0..2 {
        cluster.plane.create_namespace(goes, &[])?;
        let target = cluster.start_pod(&member.node, goes, "target", &[("app", "target")])?;
        client.waits_until_it_reaches(&target, true)?;
        cluster.plane.apply(&[only_from_blue(goes)])?;
        client.waits_until_it_reaches(&target, false)?;
        cluster.plane.end_pod(&member.node, &target.pod)?;
        // The controllers delete what is in it; this waits until it is gone.
        cluster.plane.kubectl(&["delete", "namespace", goes, "--timeout=60s"])?;
    }
    Ok(())
}
