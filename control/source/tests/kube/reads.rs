//! Reading: everything arrives, whatever the server does.

use heddle_model::{Cluster, Kind};
use serde_json::json;

use crate::scripted::{Answer, CLUSTER_POLICIES, PODS, SERVICES, Server};
use crate::{Followed, has, pod};

#[test]
fn objects_are_listed_and_followed_page_by_page_or_as_a_stream() {
    for minor in ["30", "36"] {
        let server = Server::start(minor);
        for n in 0..1200 {
            server.put(PODS, &pod(&format!("p{n}"), "1"));
        }
        let followed = Followed::start(&server);
        followed.wait("everything is synced", |cluster| {
            cluster.is_synced() && cluster.count(Kind::Pod) == 1200
        });
        let asked = server.asked(PODS);
        let by_pages = asked.iter().filter(|query| query.contains("continue=")).count();
        assert_eq!(by_pages, if minor == "30" { 2 } else { 0 }, "{asked:?}");
        server.put(PODS, &pod("p7", "2"));
        server.put(PODS, &pod("new", "1"));
        server.delete(PODS, "a", "p8");
        followed.wait("the changes", |cluster| {
            has(cluster, "p7", "2") && has(cluster, "new", "1") && cluster.count(Kind::Pod) == 1200
        });
        let health = &followed.health()[&Kind::Pod];
        assert_eq!((health.synced, health.objects, &health.error), (true, 1200, &None));
        assert_eq!(health.resource_version, server.version().to_string());
    }
}

/// As an API server above an older etcd: its version streams lists, and it does not.
#[test]
fn a_server_that_cannot_stream_lists_is_asked_for_pages() {
    let server = Server::start("36");
    server.answer(PODS, Answer::NoStreamOfLists);
    for n in 0..600 {
        server.put(PODS, &pod(&format!("p{n}"), "1"));
    }
    let followed = Followed::start(&server);
    followed.wait("everything is synced", |cluster| {
        cluster.is_synced() && cluster.count(Kind::Pod) == 600
    });
    assert_eq!(followed.error(Kind::Pod), None);
    server.put(PODS, &pod("new", "1"));
    followed.wait("the change", |cluster| has(cluster, "new", "1"));
}

#[test]
fn a_stream_that_breaks_off_anywhere_loses_nothing() {
    let server = Server::start("36");
    server.put(PODS, &pod("old", "1"));
    let followed = Followed::start(&server);
    followed.wait("everything is synced", Cluster::is_synced);
    for (n, cut) in [0, 1, 40, 200, 300].into_iter().enumerate() {
        let version = format!("{}", n + 2);
        // The next event ends after so many bytes, and the stream with it.
        server.cut_after(PODS, cut);
        server.put(PODS, &pod("old", &version));
        server.put(PODS, &pod(&format!("p{n}"), &version));
        followed.wait("the changes after the cut", |cluster| {
            has(cluster, "old", &version) && has(cluster, &format!("p{n}"), &version)
        });
    }
    // A deletion that the server no longer remembers is found by a new list.
    server.cut_after(PODS, 0);
    server.delete_silently(PODS, "a", "p0");
    server.forget_versions();
    server.put(PODS, &pod("last", "1"));
    followed.wait("a new list", |cluster| {
        has(cluster, "last", "1") && !has(cluster, "p0", "2")
    });
    assert_eq!(
        followed.pods().len(),
        6,
        "old, last and four of five: {:?}",
        followed.pods()
    );
    assert!(followed.health()[&Kind::Pod].error.is_none());
}

#[test]
fn a_page_that_has_expired_begins_the_list_again() {
    let server = Server::start("30");
    for n in 0..1200 {
        server.put(PODS, &pod(&format!("p{n}"), "1"));
    }
    server.forget_next_page(PODS);
    let followed = Followed::start(&server);
    followed.wait("everything is synced", |cluster| {
        cluster.is_synced() && cluster.count(Kind::Pod) == 1200
    });
    let asked = server.asked(PODS);
    let is_first_page = |query: &&String| query.contains("limit=") && !query.contains("continue=");
    assert_eq!(asked.iter().filter(is_first_page).count(), 2, "{asked:?}");
}

/// Half of a list is no list: what it does not have yet is not gone, and nothing is published of it.
#[test]
fn a_list_that_stops_in_the_middle_is_not_complete() {
    let server = Server::start("36");
    for n in 0..10 {
        server.put(PODS, &pod(&format!("p{n}"), "1"));
    }
    server.hold_lists(PODS, 5);
    let followed = Followed::start(&server);
    followed.wait("half of the pods, and the other kinds", |cluster| {
        let others = Kind::ALL.iter().filter(|kind| **kind != Kind::Pod);
        cluster.count(Kind::Pod) == 5 && others.into_iter().all(|kind| cluster.is_kind_synced(*kind))
    });
    assert!(!followed.health()[&Kind::Pod].synced);
    server.release_lists(PODS);
    followed.wait("all pods", |cluster| {
        cluster.is_synced() && cluster.count(Kind::Pod) == 10
    });

    // The same for a later list, which begins because the version is gone.
    server.hold_lists(PODS, 5);
    server.forget_versions();
    server.cut(PODS);
    let held = || {
        server
            .asked(PODS)
            .iter()
            .filter(|query| query.contains("sendInitialEvents"))
            .count()
            == 2
    };
    followed.wait("the second list", |_| held());
    assert_eq!(followed.pods().len(), 10);
    server.release_lists(PODS);
    server.put(PODS, &pod("new", "1"));
    followed.wait("the end of the list", |cluster| cluster.count(Kind::Pod) == 11);
}

#[test]
fn changes_that_come_twice_change_nothing_and_bookmarks_spare_a_list() {
    let server = Server::start("36");
    server.put(PODS, &pod("a", "1"));
    let followed = Followed::start(&server);
    followed.wait("everything is synced", Cluster::is_synced);
    server.put(PODS, &pod("b", "1"));
    server.repeat(PODS);
    server.delete(PODS, "a", "a");
    server.repeat(PODS);
    server.put(PODS, &pod("c", "1"));
    followed.wait("the changes", |cluster| {
        cluster.count(Kind::Pod) == 2 && has(cluster, "b", "1") && has(cluster, "c", "1")
    });
    // Other kinds change, and the server forgets what came before; the bookmark is newer.
    for n in 0..5 {
        server.put(SERVICES, &json!({
            "metadata": {"namespace": "a", "name": format!("s{n}")},
            "spec": {"type": "ClusterIP", "clusterIP": format!("10.96.0.{n}"), "clusterIPs": [format!("10.96.0.{n}")],
                "ports": [{"port": 80}]},
        }));
    }
    server.bookmark(PODS);
    server.forget_older_versions();
    server.cut(PODS);
    server.put(PODS, &pod("d", "1"));
    followed.wait("the change after the bookmark", |cluster| has(cluster, "d", "1"));
    let lists = server
        .asked(PODS)
        .iter()
        .filter(|query| query.contains("sendInitialEvents"))
        .count();
    assert_eq!(lists, 1, "{:?}", server.asked(PODS));
}

#[test]
fn a_missing_kind_is_empty_until_it_appears() {
    let server = Server::start("36");
    server.answer(CLUSTER_POLICIES, Answer::Status(404, "page not found"));
    let followed = Followed::start(&server);
    followed.wait("everything is synced", Cluster::is_synced);
    let health = &followed.health()[&Kind::ClusterNetworkPolicy];
    assert_eq!((health.absent, health.synced, &health.error), (true, true, &None));
    let policy = json!({
        "metadata": {"name": "deny"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]},
    });
    server.put(CLUSTER_POLICIES, &policy);
    server.answer(CLUSTER_POLICIES, Answer::Objects);
    followed.wait("the policy", |cluster| {
        cluster.cluster_policy("deny").is_some_and(|policy| !policy.refused)
    });
    assert!(!followed.health()[&Kind::ClusterNetworkPolicy].absent);
    // And goes again, with its objects.
    server.answer(CLUSTER_POLICIES, Answer::Status(404, "page not found"));
    server.cut_after(CLUSTER_POLICIES, 0);
    server.put(CLUSTER_POLICIES, &policy);
    followed.wait("the kind is gone", |cluster| cluster.cluster_policy("deny").is_none());
}

#[test]
fn a_fault_is_said_and_keeps_what_was_read() {
    for (answer, said) in [
        (
            Answer::Status(403, "pods is forbidden: User \"x\" cannot list resource \"pods\""),
            "may not",
        ),
        (Answer::Status(404, "page not found"), "is no API server"),
        (Answer::Status(503, "apiserver is shutting down"), "(503)"),
        (Answer::Status(429, "too many requests"), "(429)"),
        (Answer::Html, "pods"),
        (Answer::Endless, "without a line end"),
    ] {
        let server = Server::start("30");
        server.answer(PODS, answer);
        server.put(SERVICES, &json!({
            "metadata": {"namespace": "a", "name": "s"},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
        }));
        let followed = Followed::start(&server);
        followed.wait("the other kinds", |cluster| cluster.count(Kind::Service) == 1);
        let told = || {
            followed
                .error(Kind::Pod)
                .is_some_and(|error| error.contains(said) && error.contains("pods"))
        };
        followed.wait(&format!("{said}: {:?}", followed.error(Kind::Pod)), |_| told());
        assert!(!followed.state.0.lock().unwrap().is_synced(), "pods are not known");
        server.put(PODS, &pod("p", "1"));
        server.answer(PODS, Answer::Objects);
        followed.wait("the end of the fault", |cluster| {
            cluster.is_synced() && has(cluster, "p", "1")
        });
        assert_eq!(followed.error(Kind::Pod), None);
    }
}

#[test]
fn odd_objects_cost_nothing_but_themselves() {
    let server = Server::start("36");
    server.put(PODS, &pod("good", "1"));
    let mut odd = pod("odd", "1");
    odd["spec"]["containers"] = json!("none");
    server.put(PODS, &odd);
    let mut newer = pod("newer", "1");
    newer["spec"]["field"] = json!({"of": ["a", "newer", {"API": 1}]});
    newer["status"] = json!({"phase": "Hibernating"});
    server.put(PODS, &newer);
    let followed = Followed::start(&server);
    followed.wait("the good ones", |cluster| {
        cluster.is_synced() && has(cluster, "good", "1") && has(cluster, "newer", "1")
    });
}
