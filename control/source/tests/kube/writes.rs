//! Writing: the agent's own Node, and Events about refused objects.

use std::time::{Duration, Instant};

use heddle_model::Cluster;
use heddle_model::VTEP_ANNOTATION;
use heddle_source::kube::{NodeReport, Reporter, VERSION_ANNOTATION};
use serde_json::{Value, json};

use crate::scripted::{Answer, EVENTS, NODES, POLICIES, Server};
use crate::{BOUND, Followed, NODE};

fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "annotations": {"other": "stays"}},
        "spec": {"podCIDRs": ["10.0.0.0/24"]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"}]},
    })
}

fn report(version: &str) -> NodeReport {
    NodeReport {
        annotations: [
            (VTEP_ANNOTATION, "02:68:65:64:64:6c".to_owned()),
            (VERSION_ANNOTATION, version.to_owned()),
        ]
        .into(),
        withdrawn: Default::default(),
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn reporter(followed: &Followed) -> &Reporter {
    followed.follower.reporter().unwrap()
}

/// Returns true if the Node has the annotations and the condition.
fn is_reported(server: &Server, version: &str) -> bool {
    let node = server.object(NODES, "", NODE);
    let annotations = &node["metadata"]["annotations"];
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let has = |kind: &str, status: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == status);
    annotations["other"] == "stays"
        && annotations[VTEP_ANNOTATION] == "02:68:65:64:64:6c"
        && annotations[VERSION_ANNOTATION] == version
        && has("Ready", "True")
        && has("NetworkUnavailable", "False")
        && conditions.len() == 2
}

#[test]
fn the_own_node_is_reported_and_stays_so_and_no_other() {
    let server = Server::start("36");
    server.put(NODES, &node(NODE));
    server.put(NODES, &node("n2"));
    let followed = Followed::start(&server);
    followed.wait("everything is synced", Cluster::is_synced);
    assert_eq!(server.writes(), 0, "before the dataplane is up");
    reporter(&followed).set_node(report("1"));
    wait("the report", || is_reported(&server, "1"));
    assert_eq!(server.object(NODES, "", "n2"), {
        let mut other = node("n2");
        other["metadata"]["resourceVersion"] = server.object(NODES, "", "n2")["metadata"]["resourceVersion"].clone();
        other
    });
    // Someone takes it away, and a new agent has another version.
    server.put(NODES, &node(NODE));
    wait("the report again", || is_reported(&server, "1"));
    reporter(&followed).set_node(report("2"));
    wait("the new version", || is_reported(&server, "2"));
    assert!(reporter(&followed).faults().is_empty());
}

#[test]
fn a_missing_right_to_write_is_named_and_reading_goes_on() {
    let server = Server::start("36");
    server.put(NODES, &node(NODE));
    server.answer_writes(Answer::Status(
        403,
        "nodes \"n1\" is forbidden: User \"x\" cannot patch",
    ));
    let followed = Followed::start(&server);
    followed.wait("everything is synced", Cluster::is_synced);
    reporter(&followed).set_node(report("1"));
    wait("both faults", || reporter(&followed).faults().len() == 2);
    for (resource, fault) in reporter(&followed).faults() {
        assert!(["nodes", "nodes/status"].contains(&resource), "{resource}");
        assert!(
            fault.contains(&format!("give it the verb patch on {resource}")),
            "{fault}"
        );
    }
    server.put(NODES, &node("n2"));
    followed.wait("the other node", |cluster| cluster.node("n2").is_some());
    server.answer_writes(Answer::Objects);
    wait("the report", || is_reported(&server, "1"));
    wait("the end of the faults", || reporter(&followed).faults().is_empty());
}

/// Two agents refuse one policy: there is one Event, and it tells the field and the value.
#[test]
fn a_refused_policy_gets_one_event_whoever_refuses_it() {
    let server = Server::start("36");
    server.put(
        POLICIES,
        &json!({
            "metadata": {"namespace": "a", "name": "p", "uid": "uid-of-p"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 70_000}]}]},
        }),
    );
    let agents = [Followed::start(&server), Followed::start(&server)];
    for agent in &agents {
        agent.wait("the rejection", |cluster| {
            cluster.is_synced() && cluster.rejections().count() == 1
        });
        let cluster = agent.state.0.lock().unwrap();
        reporter(agent).set_refusals(cluster.rejections());
    }
    wait("both have told it", || server.writes() == 2);
    let events = server.objects(EVENTS);
    let [event] = &events[..] else {
        panic!("one event: {events:?}")
    };
    assert_eq!(event["involvedObject"]["uid"], "uid-of-p");
    assert_eq!(event["involvedObject"]["kind"], "NetworkPolicy");
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("Rejected"))
    );
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains("spec.ingress[0].ports[0].port") && message.contains("70000"),
        "{message}"
    );
    // Told once, it is not told again.
    for agent in &agents {
        reporter(agent).set_refusals([].into_iter());
        let cluster = agent.state.0.lock().unwrap();
        reporter(agent).set_refusals(cluster.rejections());
        assert!(reporter(agent).faults().is_empty());
    }
}
