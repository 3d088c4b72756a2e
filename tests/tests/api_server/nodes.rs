//! Several nodes: two agents follow one API server, and nodes come and go.

use std::net::IpAddr;

use heddle_lab::{LabError, manifests};
use serde_json::{Value, json};

use crate::common::wait_until;
use crate::scene::{Cluster, Member, Running};

/// Returns a ClusterNetworkPolicy that denies all traffic between the pods of a namespace.
pub fn deny_within(namespace: &str) -> Value {
    let pods =
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}, "podSelector": {}});
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("deny-within-{namespace}")},
        "spec": {
            "tier": "Admin", "priority": 10, "subject": {"pods": pods},
            "ingress": [{"action": "Deny", "from": [{"pods": pods}]}]
        }
    })
}

#[test]
fn two_agents_follow_one_api_server() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let namespace = "two";
    cluster.plane.create_namespace(namespace, &[])?;
    let members = [cluster.ready_node("left", 5)?, cluster.ready_node("right", 6)?];
    let pair = |member: &Member| -> Result<[Running; 2], LabError> {
        let name = member.node.name();
        let start =
            |kind: &str| cluster.start_pod(&member.node, namespace, &format!("{name}-{kind}"), &[("app", kind)]);
        Ok([start("client")?, start("server")?])
    };
    let pairs = [pair(&members[0])?, pair(&members[1])?];
    let both = |expected: bool| {
        pairs
            .iter()
            .try_for_each(|[client, server]| client.waits_until_it_reaches(server, expected))
    };
    both(true)?;

    // The same objects reach both, and take effect on both.
    let policy = deny_within(namespace);
    let version = cluster.plane.apply_one(&policy)?;
    for member in &members {
        wait_until("the policy arrives", || {
            member.has_seen("ClusterNetworkPolicy", version)
        })?;
    }
    both(false)?;
    cluster.plane.remove(&[policy])?;
    both(true)?;

    // One agent loses the API server. The other one goes on, and the first one follows later.
    members[0].gate.close();
    cluster.plane.apply(&[deny_within(namespace)])?;
    let [client, server] = &pairs[1];
    client.waits_until_it_reaches(server, false)?;
    let [client, server] = &pairs[0];
    assert!(client.reaches(server)?, "the last good state serves");
    members[0].gate.open();
    both(false)?;
    members[0].wait_until_healthy()?;
    assert_eq!(objects(&members[0])?, objects(&members[1])?);
    cluster.plane.remove(&[deny_within(namespace)])
}

/// Returns the numbers of objects that the tests of other files leave alone.
fn objects(member: &Member) -> Result<[Value; 2], LabError> {
    let mut status = member.node.status()?;
    let objects = &mut status["source"]["objects"];
    Ok([objects["ClusterNetworkPolicy"].take(), objects["ServiceCIDR"].take()])
}

#[test]
fn a_node_is_added_removed_and_added_again() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let namespace = "added";
    cluster.plane.create_namespace(namespace, &[])?;
    // The agent runs before its Node exists: nothing is attached until the controllers have given it pod ranges.
    let mut member = cluster.node("added", 7)?;
    cluster.plane.kubectl(&["delete", "node", "added"])?;
    member.node.launch_agent()?;
    wait_until("the agent has no fault", || {
        // Until the agent listens, nobody answers.
        Ok(member
            .faulty_kinds()
            .is_ok_and(|faulty| faulty.is_empty() && member.kind("Node").is_ok_and(|kind| kind["synced"] == true)))
    })?;
    cluster.plane.register(&member.node)?;
    member.node.wait_until_ready()?;
    let server = cluster.start_pod(&member.node, namespace, "server", &[])?;
    let client = cluster.start_pod(&member.node, namespace, "client", &[])?;
    client.waits_until_it_reaches(&server, true)?;

    // Another node comes and goes.
    let mut other = manifests::node("elsewhere", &[IpAddr::from([192, 0, 2, 200])], &[]);
    other["spec"] = json!({});
    let version = cluster.plane.apply_one(&other)?;
    wait_until("the other node arrives", || member.has_seen("Node", version))?;
    client.waits_until_it_reaches(&server, true)?;
    cluster.plane.remove(&[other])?;

    // This node's own object goes. Its pods keep what they have, and the node comes back.
    cluster.plane.kubectl(&["delete", "node", "added"])?;
    assert!(client.reaches(&server)?, "attached pods go on");
    cluster.plane.register(&member.node)?;
    let version = cluster.plane.get(&["node", "added"])?["metadata"]["resourceVersion"].take();
    let version = version.as_str().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    wait_until("the node is back", || member.has_seen("Node", version))?;
    client.waits_until_it_reaches(&server, true)?;
    let third = cluster.start_pod(&member.node, namespace, "third", &[])?;
    client.waits_until_it_reaches(&third, true)
}
