//! From policies to verdicts, one behaviour per test.

use super::*;
use heddle_model::{
    Cause, ClusterNetworkPolicy, ClusterPeer, ClusterRule, Operator, PodSubject, Rejection, RuleAction, Subject, Tier,
};

/// Makes two pods here (2: db, 3: web) and two elsewhere, all but one in `shop`.
fn shop() -> World {
    let mut world = World::new();
    world
        .put(namespace("shop", "team=a"))
        .put(namespace("other", "team=b"))
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(node("there", "192.168.0.2", "10.0.2.0/24"))
        .local(2, &pod("shop/db", "here", &["10.0.1.2", "fd00:1::2"], "app=db"))
        .local(3, &pod("shop/web", "here", &["10.0.1.3", "fd00:1::3"], "app=web"))
        .put(pod("shop/far", "there", &["10.0.2.9"], "app=web"))
        .put(pod("other/guest", "there", &["10.0.2.8"], "app=web"));
    world
}

#[test]
fn pods_without_a_policy_allow_everything() {
    let snapshot = shop().build().snapshot;
    for peer in [
        "10.0.1.3",
        "10.0.2.9",
        "10.0.2.8",
        "192.168.0.1",
        "192.168.0.2",
        "1.1.1.1",
        "fd00:1::3",
    ] {
        let (allowed, why) = verdict_of(&snapshot, 2, Direction::Ingress, peer, Proto::TCP, 5432);
        let free = if peer == "192.168.0.1" {
            Provenance::OwnNode
        } else {
            Provenance::NoPolicy
        };
        assert_eq!((allowed, &*why), (true, &free), "{peer}");
    }
}

#[test]
fn a_policy_without_rules_denies_and_is_named() {
    let mut world = shop();
    world.put(policy("shop/closed", "app=db", Some(vec![]), None));
    let snapshot = world.build().snapshot;
    let (allowed, why) = verdict_of(&snapshot, 2, Direction::Ingress, "10.0.1.3", Proto::TCP, 5432);
    assert!(!allowed);
    assert_eq!(
        why.to_string(),
        "default deny because shop/closed selects this pod for ingress"
    );
    assert!(lets_out(&snapshot, 2, "10.0.1.3", 80), "egress is not spoken of");
    assert!(admits(&snapshot, 3, "10.0.2.9", 80), "web is not selected");
    assert!(admits(&snapshot, 2, "192.168.0.1", 80), "its own node");
    assert!(!admits(&snapshot, 2, "192.168.0.2", 80), "another node");
    assert!(admits(&snapshot, 2, "10.0.1.2", 80), "itself");
}

#[test]
fn peers_by_pod_and_namespace_labels() {
    let mut world = shop();
    let from = vec![
        pods("app=web"),
        pods_in("team=b", "app=none"),
        pods_in("kubernetes.io/metadata.name=other", ""),
    ];
    world.put(policy(
        "shop/db",
        "app=db",
        Some(vec![rule(from, vec![tcp(5432)])]),
        None,
    ));
    let snapshot = world.build().snapshot;
    assert!(
        admits(&snapshot, 2, "10.0.1.3", 5432),
        "web of the same namespace, here"
    );
    assert!(admits(&snapshot, 2, "fd00:1::3", 5432), "its other address");
    assert!(
        admits(&snapshot, 2, "10.0.2.9", 5432),
        "web of the same namespace, there"
    );
    assert!(admits(&snapshot, 2, "10.0.2.8", 5432), "any pod of the other namespace");
    assert!(!admits(&snapshot, 2, "1.1.1.1", 5432));
    assert!(!admits(&snapshot, 2, "10.0.1.3", 5433));
    let (icmp, _) = verdict_of(&snapshot, 2, Direction::Ingress, "10.0.1.3", Proto::ICMP, 0);
    assert!(!icmp, "a rule with ports speaks of TCP, UDP and SCTP alone");
    let (_, why) = verdict_of(&snapshot, 2, Direction::Ingress, "10.0.1.3", Proto::TCP, 5432);
    assert_eq!(why.to_string(), "NetworkPolicy shop/db ingress rule 0");
}

#[test]
fn changed_labels_are_matched_by_expressions_again() {
    let mut world = shop();
    let expression = |operator, values: &[&str]| {
        LabelSelector::new([Requirement::new("tier", operator, values.iter().copied()).unwrap()])
    };
    let peer = |operator, values: &[&str]| Peer::Pods {
        namespaces: None,
        pods: expression(operator, values),
    };
    let one = |peer| Some(vec![rule(vec![peer], vec![])]);
    let allowed = |world: &mut World| {
        let snapshot = world.build().snapshot;
        (
            admits(&snapshot, 2, "10.0.2.9", 1),
            verdict_of(&snapshot, 2, Direction::Ingress, "10.0.2.9", Proto::ICMP, 0).0,
        )
    };
    for (operator, values, without, gold, tin) in [
        (Operator::In, &["gold", "silver"][..], false, true, false),
        (Operator::NotIn, &["gold"][..], true, false, true),
        (Operator::Exists, &[][..], false, true, true),
        (Operator::DoesNotExist, &[][..], true, false, false),
    ] {
        world.put(policy("shop/db", "app=db", one(peer(operator, values)), None));
        for (tier, want) in [("", without), (",tier=gold", gold), (",tier=tin", tin)] {
            world.put(pod("shop/far", "there", &["10.0.2.9"], &format!("app=web{tier}")));
            assert_eq!(allowed(&mut world), (want, want), "{operator:?} {tier}");
        }
    }
    world.put(policy("shop/db", "app=db", one(pods_in("team=a", "")), None));
    assert!(allowed(&mut world).0);
    world.put(namespace("shop", "team=c"));
    assert!(!allowed(&mut world).0);
    world.put(namespace("shop", "team=a"));
    assert!(allowed(&mut world).0);
    world.put(pod("shop/db", "here", &["10.0.1.2", "fd00:1::2"], "app=changed"));
    world.put(namespace("shop", "team=c"));
    assert!(allowed(&mut world).0, "no policy selects it any more");
}

#[test]
fn blocks_match_outside_addresses_nodes_and_pods() {
    let mut world = shop();
    let from = vec![
        block("10.0.2.0/24", &["10.0.2.9/32"]),
        block("1.0.0.0/8", &["1.2.0.0/16"]),
        block("::/0", &[]),
    ];
    world.put(policy("shop/db", "app=db", Some(vec![rule(from, vec![])]), None));
    let snapshot = world.build().snapshot;
    for (peer, want) in [
        ("10.0.2.8", true),
        ("10.0.2.9", false),
        ("10.0.2.77", true),
        ("10.0.1.3", false),
        ("1.1.1.1", true),
        ("1.2.1.1", false),
        ("fd00:1::3", true),
        ("2001:db8::1", true),
        ("192.168.0.2", false),
    ] {
        assert_eq!(admits(&snapshot, 2, peer, 80), want, "{peer}");
    }
    world.put(policy(
        "shop/db",
        "app=db",
        Some(vec![rule(vec![block("192.168.0.0/16", &[])], vec![])]),
        None,
    ));
    let snapshot = world.build().snapshot;
    assert!(admits(&snapshot, 2, "192.168.0.2", 80) && !admits(&snapshot, 2, "1.1.1.1", 80));
    assert_eq!(snapshot.sizes().policy_cidrs, 1, "CIDRs that no policy names are gone");
}

#[test]
fn named_ports_are_resolved_for_each_destination_pod() {
    let mut world = shop();
    let with = |name: &str, node: &str, addr: &str, app: &str, number| {
        let mut pod = pod(name, node, &[addr], app);
        pod.ports = [
            container_port("http", number, Protocol::Tcp),
            container_port("http", 99, Protocol::Udp),
        ]
        .into();
        pod
    };
    world
        .put(with("shop/far", "there", "10.0.2.9", "app=web", 8080))
        .put(with("other/guest", "there", "10.0.2.8", "app=web", 9090))
        .local(2, &with("shop/db", "here", "10.0.1.2", "app=db", 7070))
        .put(policy(
            "shop/out",
            "app=db",
            None,
            Some(vec![rule(vec![], vec![named("http"), tcp(53)])]),
        ))
        .put(policy(
            "shop/in",
            "app=db",
            Some(vec![rule(vec![pods("")], vec![named("http")])]),
            None,
        ));
    let snapshot = world.build().snapshot;
    for (peer, port, want) in [
        ("10.0.2.9", 8080, true),
        ("10.0.2.9", 9090, false),
        ("10.0.2.9", 53, true),
        ("10.0.2.8", 9090, true),
        ("10.0.2.8", 8080, false),
        ("1.1.1.1", 8080, false),
        ("1.1.1.1", 53, true),
        ("10.0.1.3", 8080, false),
    ] {
        assert_eq!(lets_out(&snapshot, 2, peer, port), want, "to {peer}:{port}");
    }
    assert!(admits(&snapshot, 2, "10.0.2.9", 7070) && !admits(&snapshot, 2, "10.0.2.9", 8080));
    world.local(2, &with("shop/db", "here", "10.0.1.2", "app=db", 6060));
    let snapshot = world.build().snapshot;
    assert!(admits(&snapshot, 2, "10.0.2.9", 6060) && !admits(&snapshot, 2, "10.0.2.9", 7070));
}

#[test]
fn policies_are_additive_and_port_ranges_include_both_ends() {
    let mut world = shop();
    world
        .put(policy(
            "shop/a",
            "app=db",
            Some(vec![rule(vec![pods("app=web")], vec![tcp_range(100, 200)])]),
            None,
        ))
        .put(policy(
            "shop/b",
            "",
            Some(vec![rule(vec![], vec![tcp(150), tcp(300)])]),
            None,
        ));
    let snapshot = world.build().snapshot;
    let allowed = |peer: &str| [99, 100, 150, 200, 201, 300].map(|port| admits(&snapshot, 2, peer, port));
    assert_eq!(allowed("10.0.2.9"), [false, true, true, true, false, true]);
    assert_eq!(allowed("1.1.1.1"), [false, false, true, false, false, true]);
    let why = |peer, port| {
        verdict_of(&snapshot, 2, Direction::Ingress, peer, Proto::TCP, port)
            .1
            .to_string()
    };
    assert_eq!(why("10.0.2.9", 150), "NetworkPolicy shop/a ingress rule 0");
    assert_eq!(why("1.1.1.1", 150), "NetworkPolicy shop/b ingress rule 0");
    assert_eq!(
        why("1.1.1.1", 100),
        "default deny because shop/a selects this pod for ingress"
    );
    assert_eq!(
        verdict_of(&snapshot, 3, Direction::Ingress, "1.1.1.1", Proto::TCP, 100)
            .1
            .to_string(),
        "default deny because shop/b selects this pod for ingress"
    );
}

#[test]
fn a_pod_is_closed_until_it_is_known_and_one_without_a_pod_is_open() {
    let mut world = shop();
    world.put(policy("shop/closed", "", Some(vec![]), Some(vec![])));
    world
        .compiler
        .attach(attachment(4, Some(&key("shop/late")), &[ip("10.0.1.4")]));
    world.compiler.attach(attachment(5, None, &[ip("10.0.1.5")]));
    let built = world.build();
    assert_eq!(built.ready, [2, 3, 5].map(EndpointId));
    let why = |world: &Snapshot, id| verdict_of(world, id, Direction::Egress, "1.1.1.1", Proto::TCP, 80);
    assert_eq!(why(&built.snapshot, 4), (false, Provenance::NotReady.into()));
    assert_eq!(why(&built.snapshot, 5), (true, Provenance::NoPolicy.into()));
    assert!(!admits(&built.snapshot, 4, "192.168.0.1", 80), "not even its own node");
    world.put(pod("shop/late", "here", &[], "app=late"));
    let built = world.build();
    assert_eq!(built.ready, [2, 3, 4, 5].map(EndpointId));
    assert!(!why(&built.snapshot, 4).0);
    world.delete(Kind::NetworkPolicy, "shop", "closed");
    assert!(why(&world.build().snapshot, 4).0);
}

#[test]
fn a_deleted_pod_keeps_its_policy_as_long_as_it_is_attached() {
    let mut world = shop();
    world.put(policy("shop/closed", "app=db", Some(vec![]), None));
    world.delete(Kind::Pod, "shop", "db");
    let snapshot = world.build().snapshot;
    assert!(!admits(&snapshot, 2, "10.0.1.3", 80));
}

#[test]
fn a_refused_policy_that_never_was_good_closes_the_pods_it_selects() {
    let mut world = shop();
    let closes = Arc::new(policy("shop/bad", "app=db", Some(vec![]), None));
    let object = ObjectRef::new(Kind::NetworkPolicy, key("shop/bad"));
    let rejection = Rejection {
        origin: "test".into(),
        line: None,
        subject: Subject::Object(object),
        cause: Cause::Invalid,
        field: "spec.ingress[0].ports[0].protocol".into(),
        value: "TPC".into(),
        message: "unknown".into(),
        closes: Some(Object::NetworkPolicy(closes)),
    };
    let changes = world.cluster.apply(Event::Rejected(rejection));
    world.record(&changes);
    let snapshot = world.build().snapshot;
    let (allowed, why) = verdict_of(&snapshot, 2, Direction::Ingress, "10.0.1.3", Proto::TCP, 80);
    assert!(!allowed);
    assert_eq!(
        why.to_string(),
        "denied because NetworkPolicy shop/bad, which selects this pod for ingress, was refused"
    );
    assert!(lets_out(&snapshot, 2, "10.0.1.3", 80));
}

#[test]
fn terminated_and_host_network_pods_match_no_selector() {
    let mut world = shop();
    let mut done = pod("shop/done", "there", &["10.0.2.20"], "app=web");
    done.phase = PodPhase::Succeeded;
    let mut host = pod("shop/host", "there", &["192.168.0.2"], "app=web");
    host.host_network = true;
    world.put(done).put(host).put(policy(
        "shop/db",
        "app=db",
        Some(vec![rule(vec![pods("app=web")], vec![])]),
        None,
    ));
    let snapshot = world.build().snapshot;
    assert!(admits(&snapshot, 2, "10.0.2.9", 80));
    assert!(!admits(&snapshot, 2, "10.0.2.20", 80));
    assert!(!admits(&snapshot, 2, "192.168.0.2", 80));
}

#[test]
fn unchanged_rules_of_an_edited_policy_match_new_pods_too() {
    let mut world = shop();
    let edited = |second| {
        let rules = vec![
            rule(vec![pods("app=new")], vec![tcp(80)]),
            rule(vec![pods("app=web")], vec![tcp(second)]),
        ];
        policy("shop/db", "app=db", Some(rules), None)
    };
    world.put(edited(81)).build();
    let edited = world.put(edited(82)).build().snapshot;
    assert!(admits(&edited, 2, "10.0.2.9", 82) && !admits(&edited, 2, "10.0.2.9", 81));
    let with_new = world
        .put(pod("shop/new", "there", &["10.0.2.20"], "app=new"))
        .build()
        .snapshot;
    assert!(admits(&with_new, 2, "10.0.2.20", 80) && !admits(&with_new, 2, "10.0.2.20", 82));
}

#[test]
fn an_admin_policy_counts_by_its_current_priority() {
    let mut world = shop();
    let everyone = || LabelSelector::new([]);
    let of_administrators = |name: &str, priority, action| ClusterNetworkPolicy {
        name: name.into(),
        tier: Tier::Admin,
        priority,
        subject: PodSubject {
            namespaces: everyone(),
            pods: matching("app=db"),
        },
        ingress: vec![ClusterRule {
            name: "web".into(),
            action,
            peers: vec![ClusterPeer::Pods(PodSubject {
                namespaces: everyone(),
                pods: matching("app=web"),
            })],
            ports: vec![],
        }],
        egress: vec![],
        refused: false,
    };
    world.put(of_administrators("accepts", 20, RuleAction::Accept));
    for (priority, want) in [(10, false), (30, true), (5, false)] {
        let snapshot = world
            .put(of_administrators("denies", priority, RuleAction::Deny))
            .build()
            .snapshot;
        assert_eq!(admits(&snapshot, 2, "10.0.2.9", 80), want, "priority {priority}");
    }
}

#[test]
fn an_endpoint_that_joins_a_group_that_another_leaves_gets_its_own_policy() {
    let mut world = World::new();
    world.put(namespace("shop", ""));
    world.put(pod("shop/web", "there", &["10.0.2.9"], "app=web"));
    world.local(2, &pod("shop/first", "here", &["10.0.1.2"], "stage=a"));
    world.local(3, &pod("shop/second", "here", &["10.0.1.3"], "stage=b"));
    // All endpoints have the same default denial.
    world.put(policy("shop/all", "", Some(vec![]), None));
    for (stage, number) in [("a", 81), ("b", 82), ("c", 83)] {
        let rules = vec![rule(vec![pods("app=web")], vec![tcp(number)])];
        world.put(policy(
            &format!("shop/of-{stage}"),
            &format!("stage={stage}"),
            Some(rules),
            None,
        ));
    }
    world.build();
    world.put(pod("shop/first", "here", &["10.0.1.2"], "stage=b"));
    world.put(pod("shop/second", "here", &["10.0.1.3"], "stage=c"));
    let snapshot = world.build().snapshot;
    let open = |id| [81, 82, 83].map(|number| admits(&snapshot, id, "10.0.2.9", number));
    assert_eq!((open(2), open(3)), ([false, true, false], [false, false, true]));
}
