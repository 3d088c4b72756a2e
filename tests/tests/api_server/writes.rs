//! Writes: the agent's own Node shows its dataplane, and the author of a refused object sees why. Without a right, `heddle status`
//! names it, and everything else goes on.

use heddle_lab::{LabError, manifests};
use serde_json::{Value, json};

use crate::common::wait_until;
use crate::scene::{Cluster, Member, RETRY_BOUND};

/// Returns true if a Node shows that its dataplane is up.
fn shows_dataplane(cluster: &Cluster, member: &Member) -> Result<bool, LabError> {
    let node = cluster.plane.get(&["node", member.node.name()])?;
    let annotations = &node["metadata"]["annotations"];
    let addresses = member.node.internal_ips().map(|ip| ip.to_string()).join(",");
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let vtep = &member.node.status()?["uplink"]["vtep"];
    Ok(annotations["heddle.io/vtep"] == *vtep
        && annotations["heddle.io/vtep-addresses"] == addresses
        && annotations["heddle.io/version"] == env!("CARGO_PKG_VERSION")
        && conditions.any(|condition| condition["type"] == "NetworkUnavailable" && condition["status"] == "False"))
}

fn waits_until_it_shows_dataplane(cluster: &Cluster, member: &Member) -> Result<(), LabError> {
    heddle_lab::wait_until("the Node shows its dataplane", RETRY_BOUND, || {
        shows_dataplane(cluster, member)
    })
}

/// Makes a Service whose load balancer has an address that none can have, which the API server does not check.
fn odd_service(cluster: &Cluster, name: &str) -> Result<(), LabError> {
    let mut service = manifests::service("default", name, &[], 80, 80);
    service["spec"] = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    cluster.plane.apply(&[service])?;
    let patch = json!({"status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}}).to_string();
    let how = ["--subresource=status", "--type=merge", "--patch", &patch];
    cluster
        .plane
        .kubectl(&[&["patch", "service", name], &how[..]].concat())
        .map(drop)
}

/// Waits until `kubectl describe` shows the author of a Service what is wrong with it.
fn waits_until_described(cluster: &Cluster, name: &str) -> Result<(), LabError> {
    heddle_lab::wait_until("kubectl describe names the fault", RETRY_BOUND, || {
        let described = cluster.plane.kubectl(&["describe", "service", name])?;
        Ok([
            "PartlyIgnored",
            "heddle",
            "status.loadBalancer.ingress[0].ip",
            "127.0.0.1",
        ]
        .iter()
        .all(|part| described.contains(part)))
    })
}

/// Returns the fault of writing a resource.
fn write_fault(member: &Member, resource: &str) -> Result<Option<String>, LabError> {
    let status = member.node.status()?;
    Ok(status["source"]["write_faults"][resource].as_str().map(str::to_owned))
}

#[test]
fn a_node_shows_its_dataplane_again_after_someone_removed_it() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("shows", 20)?;
    waits_until_it_shows_dataplane(&cluster, &member)?;
    let remove = ["annotate", "node", "shows", "heddle.io/vtep-", "heddle.io/version-"];
    cluster.plane.kubectl(&remove)?;
    waits_until_it_shows_dataplane(&cluster, &member)?;
    let status = member.node.status()?;
    assert_eq!(status["source"]["write_faults"], json!({}));
    // Flannel's annotations are written only if configured.
    let node = cluster.plane.get(&["node", "shows"])?;
    let mut names = node["metadata"]["annotations"].as_object().into_iter().flatten();
    assert!(
        names.all(|(name, _)| !name.contains("flannel")),
        "{:#}",
        node["metadata"]
    );
    Ok(())
}

#[test]
fn the_author_of_an_odd_service_sees_why_and_there_is_one_event_of_two_agents() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let members = [cluster.ready_node("event-a", 21)?, cluster.ready_node("event-b", 22)?];
    odd_service(&cluster, "odd")?;
    waits_until_described(&cluster, "odd")?;
    for member in &members {
        wait_until("the agent notes the part", || {
            let status = member.node.status()?;
            let mut rejections = status["rejections"].as_array().into_iter().flatten();
            Ok(rejections.any(|rejection| rejection["object"] == "Service default/odd"))
        })?;
        assert_eq!(write_fault(member, "events")?, None);
    }
    let events = cluster.plane.get(&["events", "--namespace", "default"])?;
    let about = |event: &&Value| event["involvedObject"]["name"] == "odd" && event["source"]["component"] == "heddle";
    let count = events["items"].as_array().into_iter().flatten().filter(about).count();
    assert_eq!(count, 1, "{events:#}");
    Ok(())
}

#[test]
fn a_missing_right_to_write_is_named_and_nothing_else_is_lost() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let mut member = cluster.node("writes", 23)?;
    for (resource, verb) in [("nodes", "patch"), ("nodes/status", "patch"), ("events", "create")] {
        member.account.take_away(&cluster.plane, resource, verb)?;
        let name = format!("odd-{}", resource.replace('/', "-"));
        odd_service(&cluster, &name)?;
        // Each agent has something to write: the annotations, the condition, and an Event.
        cluster
            .plane
            .kubectl(&["annotate", "node", "writes", "heddle.io/version-"])?;
        unset_condition(&cluster, "writes")?;
        member.node.start_agent()?;
        let named = format!("give it the verb {verb} on {resource} ");
        heddle_lab::wait_until(&format!("status names {resource}"), RETRY_BOUND, || {
            Ok(write_fault(&member, resource)?.is_some_and(|fault| fault.contains(&named)))
        })?;
        member.wait_until_healthy()?;
        cluster
            .plane
            .create_namespace(&format!("without-{}", resource.replace('/', "-")), &[])?;
        member.account.give_back(&cluster.plane)?;
        heddle_lab::wait_until(&format!("{resource} are written again"), RETRY_BOUND, || {
            Ok(write_fault(&member, resource)?.is_none())
        })?;
        waits_until_it_shows_dataplane(&cluster, &member)?;
        waits_until_described(&cluster, &name)?;
        member.node.stop_agent(nix::sys::signal::Signal::SIGTERM)?;
    }
    Ok(())
}

/// Sets the condition that the agent sets to another value.
fn unset_condition(cluster: &Cluster, node: &str) -> Result<(), LabError> {
    let condition = json!({"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"});
    let patch = json!({"status": {"conditions": [condition]}}).to_string();
    let how = ["--subresource=status", "--type=strategic", "--patch", &patch];
    cluster
        .plane
        .kubectl(&[&["patch", "node", node], &how[..]].concat())
        .map(drop)
}
