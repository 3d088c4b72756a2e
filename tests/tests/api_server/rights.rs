//! Rights: `configs/rbac.yaml` gives the agent all that it needs. When one right is taken away, `heddle status` names the verb and
//! the resource, and everything else goes on.

use heddle_lab::{LabError, manifests};

use crate::common::wait_until;
use crate::scene::{Cluster, Member};

/// Returns the kinds whose fault is that a right is missing.
fn without_right(member: &Member, resource: &str, verb: &str) -> Result<Vec<String>, LabError> {
    let status = member.node.status()?;
    let kinds = status["source"]["kinds"].as_object();
    let named = format!("may not {verb} {resource}:");
    let faulty = kinds.into_iter().flatten().filter(|(_, kind)| {
        let error = kind["error"].as_str();
        error.is_some_and(|error| error.contains(&named))
    });
    Ok(faulty.map(|(name, _)| name.clone()).collect())
}

/// Returns the resources that the account may read with a verb.
fn resources(member: &Member, verb: &str) -> Vec<String> {
    let rights = member.account.rights().into_iter();
    let of_verb: Vec<String> = rights
        .filter(|(_, v)| v == verb)
        .map(|(resource, _)| resource)
        .collect();
    assert!(of_verb.len() >= 8, "one for each kind: {of_verb:?}");
    of_verb
}

#[test]
fn without_the_right_to_watch_a_kind_the_others_go_on() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("watch", 10)?;
    member.wait_until_healthy()?;
    for resource in resources(&member, "watch") {
        member.account.take_away(&cluster.plane, &resource, "watch")?;
        // A watch that runs is not ended by the loss of its right.
        member.gate.cut();
        wait_until(&format!("status names the missing right to watch {resource}"), || {
            Ok(without_right(&member, &resource, "watch")?.len() == 1)
        })?;
        let [faulty] = &without_right(&member, &resource, "watch")?[..] else {
            panic!("one kind")
        };
        wait_until(&format!("every kind but {faulty} has no fault"), || {
            Ok(member.faulty_kinds()? == [faulty.as_str()])
        })?;
        assert_eq!(member.kind(faulty)?["synced"], true, "its objects stay");
        changes_arrive(&cluster, &member, &resource)?;
        member.account.give_back(&cluster.plane)?;
        member.wait_until_healthy()?;
    }
    Ok(())
}

/// Asserts that a change of a kind other than that of `resource` arrives.
fn changes_arrive(cluster: &Cluster, member: &Member, resource: &str) -> Result<(), LabError> {
    let kind = if resource == "namespaces" {
        "Service"
    } else {
        "Namespace"
    };
    let name = format!("rights-{}", resource.split('.').next().unwrap_or_default());
    let object = if kind == "Service" {
        let mut service = manifests::service("default", &name, &[], 80, 80);
        service["spec"] = serde_json::json!({"ports": [{"port": 80}]});
        service
    } else {
        manifests::namespace(&name)
    };
    let version = cluster.plane.apply_one(&object)?;
    wait_until(&format!("a {kind} arrives without {resource}"), || {
        member.has_seen(kind, version)
    })
}

#[test]
fn without_the_right_to_list_a_kind_nothing_is_published() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let mut member = cluster.node("list", 11)?;
    for resource in resources(&member, "list") {
        member.account.take_away(&cluster.plane, &resource, "list")?;
        // As on a new node: with the cluster that an earlier agent saved, the kind would be served.
        let saved = member.node.state_dir().join("cluster.jsonl");
        match std::fs::remove_file(&saved) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(LabError::io(format!("removing {}", saved.display()))(e));
            }
            _ => {}
        }
        member.node.launch_agent()?;
        wait_until(&format!("status names the missing right to list {resource}"), || {
            // Until the agent listens, nobody answers.
            Ok(without_right(&member, &resource, "list").is_ok_and(|kinds| kinds.len() == 1))
        })?;
        let status = member.node.status()?;
        assert!(status["source"]["synced_seconds"].is_null(), "{:#}", status["source"]);
        member.account.give_back(&cluster.plane)?;
        member.node.wait_until_ready()?;
        member.wait_until_healthy()?;
        member.node.stop_agent(nix::sys::signal::Signal::SIGTERM)?;
    }
    Ok(())
}
