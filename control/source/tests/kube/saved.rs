//! The cluster that an earlier agent saved serves as long as the server does not.

use std::time::{Duration, SystemTime};

use heddle_model::{Cluster, Kind};
use heddle_source::saved::SavedCluster;
use serde_json::json;

use crate::scripted::{Answer, PODS, POLICIES, Server};
use crate::{Followed, has, pod};

/// Returns a policy; port 0 makes it one that is refused and closes.
fn policy(port: u16) -> serde_json::Value {
    json!({
        "metadata": {"namespace": "a", "name": "p", "uid": "u"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]},
    })
}

/// Returns the cluster that an agent has read and saved, an hour ago.
fn saved(server: &Server) -> SavedCluster {
    let followed = Followed::start(server);
    followed.wait("everything is synced", Cluster::is_synced);
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let saved = SavedCluster::of(&followed.state.0.lock().unwrap(), an_hour_ago);
    // As it comes back from the file.
    let mut text = Vec::new();
    saved.write(&mut text).unwrap();
    SavedCluster::read(&text[..]).unwrap()
}

#[test]
fn saved_objects_serve_until_the_server_has_sent_its_own() {
    let server = Server::start("36");
    for name in ["stays", "changes", "goes"] {
        server.put(PODS, &pod(name, "1"));
    }
    server.put(POLICIES, &policy(0));
    let saved = saved(&server);
    let saved_at = saved.saved_at;
    server.set_available(false);
    let followed = Followed::start_with(&server, Some(saved));
    followed.wait("the saved objects", |cluster| {
        cluster.is_synced() && cluster.count(Kind::Pod) == 3 && cluster.rejections().count() == 1
    });
    {
        let cluster = followed.state.0.lock().unwrap();
        let closed = cluster.policy(&heddle_model::ObjectKey::new("a", "p")).unwrap();
        assert!(closed.refused, "a refused policy closes as before");
    }
    let health = followed.follower.health().unwrap();
    let pods = &health.all()[&Kind::Pod];
    assert_eq!((pods.synced, pods.saved_at, pods.objects), (false, Some(saved_at), 3));
    assert_eq!(health.current_as_of(), saved_at);

    server.put(PODS, &pod("changes", "2"));
    server.delete(PODS, "a", "goes");
    server.put(POLICIES, &policy(80));
    server.set_available(true);
    followed.wait("the server's objects", |cluster| {
        has(cluster, "stays", "1") && has(cluster, "changes", "2") && cluster.count(Kind::Pod) == 2
    });
    followed.wait("the repaired policy", |cluster| cluster.rejections().count() == 0);
    followed.wait("every kind is current", |_| {
        followed
            .health()
            .values()
            .all(|kind| kind.synced && kind.saved_at.is_none())
    });
}

/// One kind cannot be listed, and the others are current.
#[test]
fn a_kind_that_cannot_be_listed_is_served_as_it_was_saved() {
    let server = Server::start("36");
    server.put(PODS, &pod("a", "1"));
    server.put(POLICIES, &policy(80));
    let saved = saved(&server);
    server.answer(POLICIES, Answer::Status(403, "forbidden"));
    server.put(PODS, &pod("a", "2"));
    let followed = Followed::start_with(&server, Some(saved));
    followed.wait("everything is served", |cluster| {
        cluster.is_synced() && has(cluster, "a", "2") && cluster.count(Kind::NetworkPolicy) == 1
    });
    let health = followed.health();
    assert!(health[&Kind::NetworkPolicy].saved_at.is_some() && health[&Kind::Pod].saved_at.is_none());
    let error = health[&Kind::NetworkPolicy].error.clone();
    assert!(
        error.as_ref().is_some_and(|error| error.contains("may not")),
        "{error:?}"
    );
}
