//! A change raises the generations of the endpoints that refuse more than before, and no others.

use super::services::{service, slice};
use super::*;
use heddle_model::{ClusterNetworkPolicy, ClusterPeer, ClusterRule, PodSubject, RuleAction, Tier};

/// Makes three endpoints: 2 (db) allows only web, 3 (web) allows all, 4 (mail) allows only 1.0.0.0/8.
fn world() -> World {
    let mut world = World::new();
    world
        .put(namespace("shop", "team=a"))
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(node("there", "192.168.0.2", "10.0.2.0/24"))
        .local(2, &pod("shop/db", "here", &["10.0.1.2"], "app=db"))
        .local(3, &pod("shop/web", "here", &["10.0.1.3"], "app=web"))
        .local(4, &pod("shop/mail", "here", &["10.0.1.4"], "app=mail"))
        .put(pod("shop/far", "there", &["10.0.2.9"], "app=web,v=1"))
        .put(policy(
            "shop/db",
            "app=db",
            Some(vec![rule(vec![pods("app=web")], vec![tcp(5432)])]),
            None,
        ))
        .put(policy(
            "shop/mail",
            "app=mail",
            Some(vec![rule(vec![block("1.0.0.0/8", &[])], vec![])]),
            None,
        ));
    world.build();
    world
}

fn raised(world: &mut World) -> Vec<u16> {
    let before: Vec<_> = (0..10).map(|id| generation(world.compiler.snapshot(), id)).collect();
    let built = world.build();
    let raised: Vec<u16> = built.raised.iter().map(|id| id.0).collect();
    for (id, before) in (0..10).zip(before) {
        let now = generation(&built.snapshot, id);
        if now.is_some() && before.is_some() {
            assert_eq!(now != before, raised.contains(&id), "endpoint {id}");
        }
    }
    raised
}

fn generation(snapshot: &Snapshot, id: u16) -> Option<u32> {
    snapshot.endpoint(EndpointId(id)).map(|e| e.generation.0)
}

#[test]
fn unrelated_changes_raise_no_generation() {
    let mut world = world();
    assert_eq!(raised(&mut world), [0; 0]);
    world.put(pod("shop/new", "there", &["10.0.2.10"], "app=web"));
    assert_eq!(raised(&mut world), [0; 0], "a pod of a known class");
    world.put(pod("shop/newer", "there", &["10.0.2.11"], "app=new"));
    assert_eq!(raised(&mut world), [0; 0], "a pod that no rule speaks of");
    world.put(pod("shop/far", "there", &["10.0.2.9"], "app=web,v=2"));
    assert_eq!(raised(&mut world), [0; 0], "a label that no policy speaks of");
    world.put(policy("other/p", "", Some(vec![]), None));
    assert_eq!(raised(&mut world), [0; 0], "a policy of another namespace");
    world.put(service("shop/web", &["10.96.0.1"], &[("", 80)]));
    world.put(slice(
        "shop/web-1",
        "shop/web",
        &[("", 80)],
        &[("10.0.2.9", "there", 'r')],
    ));
    assert_eq!(raised(&mut world), [0; 0], "Services: live connections stay");
    world.delete(Kind::Pod, "shop", "newer");
    assert_eq!(raised(&mut world), [0; 0], "a pod that goes");
    world
        .compiler
        .set_attachment_port(EndpointId(3), PortId(77), WorkerId(1));
    assert_eq!(raised(&mut world), [0; 0], "another port");
    assert_eq!(
        world.compiler.snapshot().endpoint(EndpointId(3)).unwrap().port,
        PortId(77)
    );
}

#[test]
fn a_change_raises_the_generations_of_endpoints_that_refuse_more() {
    let mut world = world();
    world.put(pod("shop/far", "there", &["10.0.2.9"], "app=none,v=1"));
    assert_eq!(raised(&mut world), [2], "a peer is one no more");
    world.put(pod("shop/far", "there", &["10.0.2.9"], "app=web,v=1"));
    assert_eq!(raised(&mut world), [0; 0], "and is one again: that ends no connection");
    world.put(policy(
        "shop/db",
        "app=db",
        Some(vec![rule(vec![pods("app=web")], vec![tcp(5433)])]),
        None,
    ));
    assert_eq!(raised(&mut world), [2], "another port");
    world.put(policy(
        "shop/mail",
        "app=mail",
        Some(vec![rule(vec![block("1.0.0.0/9", &[])], vec![])]),
        None,
    ));
    assert_eq!(raised(&mut world), [4], "a smaller block");
    world.put(policy("shop/web", "app=web", Some(vec![]), None));
    assert_eq!(raised(&mut world), [3], "isolated for the first time");
    world.put(pod("shop/db", "here", &["10.0.1.2"], "app=other"));
    assert_eq!(raised(&mut world), [0; 0], "selected no more");
    world.delete(Kind::NetworkPolicy, "shop", "db");
    assert_eq!(raised(&mut world), [0; 0], "nobody was selected by it");
}

/// A NetworkPolicy that lets nobody in does not block the pod from itself, so a ClusterNetworkPolicy takes this away.
#[test]
fn an_isolated_pod_that_is_denied_to_itself_refuses_more() {
    let mut world = world();
    let databases = || PodSubject {
        namespaces: LabelSelector::new([]),
        pods: matching("app=db"),
    };
    let admits_itself = |world: &World| admits(world.compiler.snapshot(), 2, "10.0.1.2", 80);
    assert!(admits_itself(&world));
    world.put(ClusterNetworkPolicy {
        name: "apart".into(),
        tier: Tier::Admin,
        priority: 1,
        subject: databases(),
        ingress: vec![ClusterRule {
            name: "".into(),
            action: RuleAction::Deny,
            peers: vec![ClusterPeer::Pods(databases())],
            ports: vec![],
        }],
        egress: vec![],
        refused: false,
    });
    assert_eq!(raised(&mut world), [2]);
    assert!(!admits_itself(&world));
    world.delete(Kind::ClusterNetworkPolicy, "", "apart");
    assert_eq!(raised(&mut world), [0; 0]);
    assert!(admits_itself(&world));
}

#[test]
fn a_new_label_key_or_cidr_raises_no_other_generation() {
    let mut world = world();
    // Adds a selector on label `v`, which splits the identities of web, and a CIDR within mail's, which splits outside
    // addresses.
    let peers = vec![
        Peer::Pods {
            namespaces: None,
            pods: matching("app=web,v=1"),
        },
        block("1.2.0.0/16", &[]),
    ];
    world.put(policy("shop/more", "app=web", Some(vec![rule(peers, vec![])]), None));
    assert_eq!(raised(&mut world), [3]);
    world.delete(Kind::NetworkPolicy, "shop", "more");
    assert_eq!(raised(&mut world), [0; 0]);
}

#[test]
fn a_change_of_a_node_that_keeps_its_addresses_and_ranges_raises_no_generation() {
    let mut world = world();
    for (name, addr, range) in [
        ("here", "192.168.0.1", "10.0.1.0/24"),
        ("there", "192.168.0.2", "10.0.2.0/24"),
    ] {
        let changed = Node {
            ready: false,
            ..node(name, addr, range)
        };
        world.put(changed);
        assert_eq!(raised(&mut world), [0; 0], "{name}");
    }
}

#[test]
fn a_reused_endpoint_id_continues_its_generation() {
    let mut world = world();
    let before = generation(world.compiler.snapshot(), 2).unwrap();
    world.compiler.detach(EndpointId(2));
    assert_eq!(raised(&mut world), [2]);
    assert_eq!(generation(world.compiler.snapshot(), 2), None);
    world.local(2, &pod("shop/next", "here", &["10.0.1.5"], ""));
    assert_eq!(raised(&mut world), [2]);
    assert!(generation(world.compiler.snapshot(), 2).unwrap() > before + 1);
}

#[test]
fn namespace_labels_reach_the_policies_that_select_by_them() {
    let mut world = world();
    world.put(policy(
        "shop/web",
        "app=web",
        None,
        Some(vec![rule(vec![pods_in("team=a", "")], vec![])]),
    ));
    assert_eq!(raised(&mut world), [3]);
    world.put(namespace("shop", "team=a,more=x"));
    assert_eq!(raised(&mut world), [0; 0]);
    world.put(namespace("shop", "team=b"));
    assert_eq!(raised(&mut world), [3]);
}
