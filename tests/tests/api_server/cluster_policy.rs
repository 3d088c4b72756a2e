//! ClusterNetworkPolicy: its CustomResourceDefinition appears late, and goes.

use heddle_lab::LabError;

use crate::common::wait_until;
use crate::nodes::deny_within;
use crate::scene::Cluster;

#[test]
fn the_definition_of_cluster_network_policy_appears_and_goes() -> Result<(), LabError> {
    // A control plane of its own: the shared one has the definition.
    let cluster = Cluster::start()?;
    let namespace = "late";
    cluster.plane.create_namespace(namespace, &[])?;
    let member = cluster.ready_node("node", 1)?;
    let kind = member.kind("ClusterNetworkPolicy")?;
    assert_eq!(
        (&kind["absent"], &kind["synced"], kind["error"].is_null()),
        (&true.into(), &true.into(), true)
    );
    let server = cluster.start_pod(&member.node, namespace, "server", &[])?;
    let client = cluster.start_pod(&member.node, namespace, "client", &[])?;
    client.waits_until_it_reaches(&server, true)?;

    cluster.install_cluster_network_policies()?;
    cluster.plane.apply(&[deny_within(namespace)])?;
    // The agent asks for a missing kind every 30 s at most.
    let absent = |expected: bool| {
        let what = format!("absent: {expected}");
        heddle_lab::wait_until(&what, std::time::Duration::from_secs(40), || {
            Ok(member.kind("ClusterNetworkPolicy")?["absent"] == expected)
        })
    };
    absent(false)?;
    client.waits_until_it_reaches(&server, false)?;

    // Without the definition there are no policies.
    cluster
        .plane
        .kubectl(&["delete", "crd", "clusternetworkpolicies.policy.networking.k8s.io"])?;
    absent(true)?;
    client.waits_until_it_reaches(&server, true)?;
    wait_until("no policy is left", || {
        Ok(member.node.status()?["source"]["objects"]["ClusterNetworkPolicy"] == 0)
    })?;
    assert!(member.faulty_kinds()?.is_empty());
    Ok(())
}
