//! The changes that events make, object by object; and, at random, that the cross references always equal a full search.

use std::net::IpAddr;

use proptest::prelude::*;

mod kept;

use super::*;
use crate::changes::Delta;
use crate::{ClusterIps, LabelSelector, Labels, NAMESPACE_NAME_LABEL, PodPhase, PortNumber, Protocol};
use crate::{LoadBalancing, ServicePort, ServiceType, SessionAffinity, TargetPort, TrafficPolicy};
use crate::{PodSubject, Tier};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str, ips: &[&str]) -> Pod {
    Pod {
        key: ObjectKey::new("shop", name),
        uid: "".into(),
        static_uid: None,
        labels: Labels::default(),
        node: Some("node-1".into()),
        ips: ips.iter().map(|text| ip(text)).collect(),
        host_network: false,
        phase: PodPhase::Running,
        ports: Arc::default(),
        ready: true,
        terminating: false,
        created: 0,
    }
}

fn service(name: &str, cluster_ip: &str, node_port: Option<u16>) -> Service {
    let port = PortNumber::new(80).unwrap();
    Service {
        key: ObjectKey::new("shop", name),
        service_type: ServiceType::NodePort,
        cluster_ips: ClusterIps::Addresses(vec![ip(cluster_ip)]),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port,
            target_port: TargetPort::Number(port),
            node_port: node_port.and_then(PortNumber::new),
        }],
        selector: None,
        external_ips: Vec::new(),
        load_balancer_ingress: Vec::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        session_affinity: SessionAffinity::None,
        publish_not_ready: false,
        health_check_node_port: None,
        traffic_distribution: None,
        proxy_name: None,
        headless_label: false,
        load_balancing: LoadBalancing::Maglev,
        external_forwarding: None,
    }
}

fn policy(name: &str) -> NetworkPolicy {
    NetworkPolicy {
        key: ObjectKey::new("shop", name),
        selector: LabelSelector::everything(),
        ingress: Some(Vec::new()),
        egress: None,
        refused: false,
    }
}

fn upsert(cluster: &mut Cluster, object: impl Into<Object>) -> Changes {
    cluster.apply(Event::Upsert {
        origin: "a.yaml".into(),
        object: object.into(),
    })
}

fn delete(cluster: &mut Cluster, object: impl Into<Object>) -> Changes {
    cluster.apply(Event::Delete(object.into().object_ref()))
}

fn invalid(object: impl Into<Object>, closes: Option<NetworkPolicy>) -> Rejection {
    Rejection {
        origin: "a.yaml".into(),
        line: Some(3),
        subject: Subject::Object(object.into().object_ref()),
        cause: Cause::Invalid,
        field: "spec.x".to_owned(),
        value: "65537".to_owned(),
        message: "no port".to_owned(),
        closes: closes.map(Object::from),
    }
}

fn names(changes: &Changes) -> Vec<String> {
    changes
        .objects
        .iter()
        .map(|change| change.object_ref().key.name.to_string())
        .collect()
}

fn owner(cluster: &Cluster, text: &str) -> Option<String> {
    cluster.pod_at(ip(text)).map(|pod| pod.key.name.to_string())
}

#[test]
fn changes_contain_both_versions_and_equal_versions_are_no_change() {
    let mut cluster = Cluster::new();
    let (first, mut second) = (pod("a", &["10.0.0.1"]), pod("a", &["10.0.0.2"]));
    second.node = Some("node-2".into());
    let added = upsert(&mut cluster, first.clone());
    let delta = Delta {
        key: first.key.clone(),
        before: None,
        after: Some(Arc::new(first.clone())),
    };
    assert_eq!(added.objects, [Change::Pod(delta)]);
    assert!(upsert(&mut cluster, first.clone()).is_empty());
    let changed = upsert(&mut cluster, second.clone());
    let [Change::Pod(delta)] = changed.objects.as_slice() else {
        panic!("{changed:?}")
    };
    assert_eq!(delta.before.as_deref(), Some(&first));
    assert_eq!(delta.after.as_deref(), Some(&second));
    assert_eq!(
        (owner(&cluster, "10.0.0.1"), owner(&cluster, "10.0.0.2")),
        (None, Some("a".to_owned()))
    );
    assert_eq!(
        (cluster.pods_on("node-1").count(), cluster.pods_on("node-2").count()),
        (0, 1)
    );
    let removed = delete(&mut cluster, second);
    assert!(matches!(removed.objects.as_slice(), [Change::Pod(delta)] if delta.is_removed()));
    assert_eq!((cluster.pods_on("node-2").count(), cluster.count(Kind::Pod)), (0, 0));
    assert!(delete(&mut cluster, pod("a", &[])).is_empty());
}

#[test]
fn of_pods_with_one_address_the_newest_that_is_not_terminating_counts() {
    let mut cluster = Cluster::new();
    let with = |name: &str, created: u64, terminating: bool| Pod {
        created,
        terminating,
        ..pod(name, &["10.0.0.1", "fd00::1"])
    };
    upsert(&mut cluster, with("b", 20, false));
    upsert(&mut cluster, with("a", 10, false));
    assert_eq!(owner(&cluster, "fd00::1").as_deref(), Some("b"), "the newest");
    upsert(&mut cluster, with("b", 20, true));
    assert_eq!(owner(&cluster, "fd00::1").as_deref(), Some("a"), "not terminating");
    upsert(&mut cluster, with("a", 10, true));
    assert_eq!(owner(&cluster, "fd00::1").as_deref(), Some("b"), "both terminate");
    upsert(&mut cluster, with("c", 20, true));
    assert_eq!(owner(&cluster, "10.0.0.1").as_deref(), Some("b"), "by name");
    assert_eq!((cluster.count(Kind::Pod), cluster.rejections().count()), (3, 0));
    delete(&mut cluster, pod("b", &[]));
    delete(&mut cluster, pod("c", &[]));
    assert_eq!(owner(&cluster, "10.0.0.1").as_deref(), Some("a"));
}

#[test]
fn terminated_pods_free_their_addresses_and_host_network_pods_share_them() {
    let mut cluster = Cluster::new();
    let mut job = pod("job", &["10.0.0.1"]);
    upsert(&mut cluster, job.clone());
    upsert(&mut cluster, pod("web", &["10.0.0.1"]));
    assert_eq!(owner(&cluster, "10.0.0.1").as_deref(), Some("job"));
    job.phase = PodPhase::Succeeded;
    assert_eq!(names(&upsert(&mut cluster, job)), ["job"]);
    assert_eq!(owner(&cluster, "10.0.0.1").as_deref(), Some("web"));
    for name in ["proxy", "exporter"] {
        let mut host = pod(name, &["192.0.2.1"]);
        host.host_network = true;
        assert_eq!(names(&upsert(&mut cluster, host)), [name]);
    }
    assert_eq!((owner(&cluster, "192.0.2.1"), cluster.rejections().count()), (None, 0));
}

#[test]
fn services_that_exchange_addresses_move_in_one_build() {
    let mut cluster = Cluster::new();
    for (name, address) in [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.3")] {
        upsert(&mut cluster, service(name, address, None));
    }
    assert!(upsert(&mut cluster, service("a", "10.96.0.2", None)).objects.is_empty());
    assert!(upsert(&mut cluster, service("b", "10.96.0.3", None)).objects.is_empty());
    let mut moved = names(&upsert(&mut cluster, service("c", "10.96.0.1", None)));
    moved.sort();
    assert_eq!(moved, ["a", "b", "c"]);
    let owners = ["10.96.0.1", "10.96.0.2", "10.96.0.3"].map(|text| {
        let found = cluster
            .services_at(ip(text))
            .map(|service| service.key.name.to_string());
        found.collect::<Vec<_>>().join(" ")
    });
    assert_eq!(
        (owners, cluster.rejections().count()),
        (["c", "a", "b"].map(str::to_owned), 0)
    );
}

#[test]
fn services_cannot_share_a_cluster_address_or_a_node_port() {
    let mut cluster = Cluster::new();
    upsert(&mut cluster, service("a", "10.96.0.1", Some(30080)));
    upsert(&mut cluster, service("b", "10.96.0.1", None));
    upsert(&mut cluster, service("c", "10.96.0.3", Some(30080)));
    let fields: Vec<_> = cluster
        .rejections()
        .map(|r| (r.field.as_str(), r.value.as_str()))
        .collect();
    assert_eq!(
        fields,
        [
            ("spec.clusterIPs", "10.96.0.1"),
            ("spec.ports[0].nodePort", "30080/TCP")
        ]
    );
    let one = cluster
        .services_at(ip("10.96.0.1"))
        .map(|service| service.key.name.as_ref())
        .collect::<Vec<_>>();
    assert_eq!(one, ["a"]);
    assert_eq!(
        names(&upsert(&mut cluster, service("a", "10.96.0.9", Some(30081)))).len(),
        3
    );
    assert_eq!((cluster.rejections().count(), cluster.count(Kind::Service)), (0, 3));
}

#[test]
fn a_refused_version_leaves_the_last_good_one_until_it_is_good_or_deleted() {
    let mut cluster = Cluster::new();
    upsert(&mut cluster, policy("p"));
    let rejection = invalid(policy("p"), Some(policy("p")));
    let changes = cluster.apply(Event::Rejected(rejection.clone()));
    assert!(changes.objects.is_empty() && changes.rejections);
    assert!(!cluster.policy(&policy("p").key).unwrap().refused);
    assert!(
        cluster.apply(Event::Rejected(rejection.clone())).is_empty(),
        "said once"
    );
    assert_eq!(
        rejection.to_string(),
        "a.yaml:3: NetworkPolicy shop/p: spec.x: 65537: no port"
    );
    assert!(upsert(&mut cluster, policy("p")).rejections);
    assert_eq!((cluster.rejections().count(), cluster.rejected_total()), (0, 1));
    cluster.apply(Event::Rejected(rejection));
    assert_eq!(
        cluster.rejections_of(&Object::from(policy("p")).object_ref()).count(),
        1
    );
    delete(&mut cluster, policy("p"));
    assert_eq!(
        (cluster.rejections().count(), cluster.count(Kind::NetworkPolicy)),
        (0, 0)
    );
}

#[test]
fn a_policy_that_never_was_good_closes_what_it_selects() {
    let mut cluster = Cluster::new();
    let mut closes = policy("p");
    closes.egress = Some(Vec::new());
    cluster.apply(Event::Rejected(invalid(policy("p"), Some(closes))));
    assert!(cluster.policies_in("shop").next().unwrap().refused);
    // A second bad version that closes less replaces the first.
    cluster.apply(Event::Rejected(invalid(policy("p"), Some(policy("p")))));
    assert_eq!(cluster.policies().next().unwrap().egress, None);
    upsert(&mut cluster, policy("p"));
    assert!(!cluster.policies().next().unwrap().refused);
    // ClusterNetworkPolicies behave alike.
    let denying = ClusterNetworkPolicy {
        name: "c".into(),
        tier: Tier::Admin,
        priority: 0,
        subject: PodSubject::default(),
        ingress: Vec::new(),
        egress: Vec::new(),
        refused: false,
    };
    let mut bad = invalid(denying.clone(), None);
    bad.closes = Some(denying.clone().into());
    cluster.apply(Event::Rejected(bad.clone()));
    assert!(cluster.cluster_policy("c").unwrap().refused);
    upsert(&mut cluster, denying);
    cluster.apply(Event::Rejected(bad));
    assert!(
        !cluster.cluster_policies().next().unwrap().refused,
        "the last good version stays"
    );
    // A pod that never was good is absent.
    cluster.apply(Event::Rejected(invalid(pod("x", &[]), None)));
    assert_eq!((cluster.count(Kind::Pod), cluster.rejections().count()), (0, 2));
}

#[test]
fn a_rejected_duplicate_stays_until_its_file_is_corrected() {
    let mut cluster = Cluster::new();
    let mut duplicate = invalid(policy("p"), None);
    duplicate.cause = Cause::Duplicate;
    upsert(&mut cluster, policy("p"));
    cluster.apply(Event::Rejected(duplicate.clone()));
    upsert(&mut cluster, policy("p"));
    assert_eq!(cluster.rejections().count(), 1);
    assert!(cluster.apply(Event::Restored(duplicate.key())).rejections);
    assert_eq!(cluster.rejections().count(), 0);
}

#[test]
fn the_cluster_is_synced_when_every_kind_is() {
    let mut cluster = Cluster::new();
    let synced = Kind::ALL.map(|kind| cluster.apply(Event::Synced(kind)).synced);
    assert_eq!(synced.iter().position(|synced| *synced), Some(Kind::ALL.len() - 1));
    assert!(cluster.is_synced() && cluster.is_kind_synced(Kind::Pod));
    assert!(!cluster.apply(Event::Synced(Kind::Pod)).synced);
}

#[test]
fn a_namespace_is_a_range_and_has_its_name_as_a_label() {
    let mut cluster = Cluster::new();
    for (namespace, name) in [("a", "z"), ("a-b", "x"), ("a", "b"), ("b", "a")] {
        let mut pod = pod(name, &[]);
        pod.key = ObjectKey::new(namespace, name);
        upsert(&mut cluster, pod);
    }
    let found: Vec<_> = cluster.pods_in("a").map(|pod| pod.key.to_string()).collect();
    assert_eq!(found, ["a/b", "a/z"]);
    assert_eq!(cluster.namespace_labels("a").get(NAMESPACE_NAME_LABEL), Some("a"));
}

#[derive(Clone, Debug)]
enum Step {
    Upsert {
        pod: u8,
        ips: Vec<u8>,
        ended: bool,
        host: bool,
        node: u8,
        created: u8,
    },
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let ips = proptest::collection::vec(0..6u8, 0..3);
    prop_oneof![
        4 => (0..6u8, ips, proptest::bool::weighted(0.1), proptest::bool::weighted(0.1), 0..3u8, 0..6u8)
            .prop_map(|(pod, ips, ended, host, node, created)| Step::Upsert { pod, ips, ended, host, node, created }),
        1 => (0..6u8).prop_map(Step::Delete),
    ]
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

proptest! {
    /// After each step: the indexes equal a full search, the changes replayed give the same pods, and the newest version of
    /// each pod is taken.
    #[test]
    fn the_indexes_of_pods_equal_a_full_search(steps in proptest::collection::vec(step(), 1..60)) {
        let mut cluster = Cluster::new();
        let mut newest: BTreeMap<ObjectKey, Pod> = BTreeMap::new();
        let mut replayed: BTreeMap<ObjectKey, Arc<Pod>> = BTreeMap::new();
        for step in steps {
            let changes = match step {
                Step::Upsert { pod: n, ips, ended, host, node, created } => {
                    let mut pod = pod(&n.to_string(), &[]);
                    pod.ips = ips.into_iter().map(address).collect();
                    pod.phase = if ended { PodPhase::Failed } else { PodPhase::Running };
                    pod.host_network = host;
                    pod.node = Some(node.to_string().into());
                    (pod.created, pod.terminating) = (u64::from(created / 2), created % 2 == 1);
                    newest.insert(pod.key.clone(), pod.clone());
                    upsert(&mut cluster, pod)
                }
                Step::Delete(n) => {
                    newest.remove(&pod(&n.to_string(), &[]).key);
                    delete(&mut cluster, pod(&n.to_string(), &[]))
                }
            };
            for change in changes.objects {
                let Change::Pod(delta) = change else { unreachable!("only pods were changed") };
                prop_assert_eq!(replayed.get(&delta.key), delta.before.as_ref());
                match delta.after {
                    Some(pod) => replayed.insert(delta.key, pod),
                    None => replayed.remove(&delta.key),
                };
            }
            prop_assert!(replayed.values().eq(cluster.pods()));
            for n in 0..6 {
                let owners = cluster.pods().filter(|pod| pod.own_ips().contains(&address(n)));
                prop_assert_eq!(cluster.pod_at(address(n)), owners.min_by(|a, b| a.cmp_as_holder(b)));
            }
            for n in 0..3 {
                let name = n.to_string();
                let on: Vec<_> = cluster.pods().filter(|pod| pod.node.as_deref() == Some(&name)).collect();
                prop_assert_eq!(cluster.pods_on(&name).collect::<Vec<_>>(), on);
            }
            prop_assert!(cluster.pods().map(Arc::as_ref).eq(newest.values()));
        }
    }
}

#[test]
fn of_pods_of_other_nodes_only_identity_and_addresses_are_kept() {
    let pod = |node: Option<&str>, ready| {
        let port = |name: Option<&str>| crate::ContainerPort {
            name: name.map(Into::into),
            number: crate::PortNumber::new(80).unwrap(),
            protocol: crate::Protocol::Tcp,
            host: name.is_none().then_some(crate::PortOfHost {
                number: crate::PortNumber::new(8080).unwrap(),
                ip: None,
            }),
        };
        Event::Upsert {
            origin: "api".into(),
            object: Object::from(Pod {
                key: ObjectKey::new("shop", "web"),
                uid: "u".into(),
                static_uid: Some("s".into()),
                labels: Labels::new([("app", "web")]).unwrap(),
                node: node.map(Into::into),
                ips: ["10.0.0.4".parse().unwrap()].into(),
                host_network: false,
                phase: crate::PodPhase::Pending,
                ports: [port(None), port(Some("http"))].into(),
                ready,
                terminating: false,
                created: 7,
            }),
        }
    };
    let mut cluster = Cluster::new().for_node("here");
    let key = ObjectKey::new("shop", "web");
    // A pod without a node may become this node's.
    for node in [None, Some("here")] {
        cluster.apply(pod(node, false));
        let known = cluster.pod(&key).unwrap();
        assert!(
            known.is_uid("u") && known.is_uid("s") && known.ports.len() == 2,
            "{known:?}"
        );
        assert_eq!(cluster.apply(pod(node, true)).objects.len(), 1);
    }
    cluster.apply(pod(Some("there"), false));
    let known = cluster.pod(&key).unwrap();
    assert!(!known.is_uid("u") && !known.is_uid("s"), "{known:?}");
    assert_eq!(known.labels.get("app"), Some("web"));
    assert_eq!((known.ports.len(), known.created, known.own_ips().len()), (1, 7, 1));
    assert_eq!(
        cluster.apply(pod(Some("there"), true)).objects,
        [],
        "readiness is no change"
    );
}

#[test]
fn the_indexes_hold_the_versions_in_force() {
    let mut cluster = Cluster::new();
    let node = |ready| Node {
        name: "n1".into(),
        labels: Labels::default(),
        internal_ips: vec![ip("192.0.2.1")],
        external_ips: Vec::new(),
        vtep: None,
        flannel: None,
        pod_cidrs: Vec::new(),
        ready,
        draining: false,
    };
    for ready in [false, true] {
        upsert(&mut cluster, node(ready));
        let mut pod = pod("p", &["10.0.0.1", "fd00::1"]);
        (pod.node, pod.ready) = (Some("n1".into()), ready);
        upsert(&mut cluster, pod);
        assert_eq!(cluster.node_at(ip("192.0.2.1")).map(|node| node.ready), Some(ready));
        for address in ["10.0.0.1", "fd00::1"] {
            assert_eq!(cluster.pod_at(ip(address)).map(|pod| pod.ready), Some(ready));
        }
        assert!(cluster.pods_on("n1").all(|pod| pod.ready == ready));
    }
    assert_eq!(cluster.pod_at(ip("10.0.0.2")), None);
}
