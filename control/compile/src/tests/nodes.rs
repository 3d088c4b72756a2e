//! The places of addresses, and the node's own table.

use super::*;
use heddle_model::ServiceCidr;
use heddle_tables::{NodeId, Place};

fn place(snapshot: &Snapshot, addr: &str) -> Place {
    snapshot.address(Ip::from(ip(addr))).place
}

#[test]
fn every_address_has_the_right_place() {
    let mut world = World::new();
    world
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(node("there", "192.168.0.2", "10.0.2.0/24"))
        .put(pod("a/far", "there", &["10.9.9.9"], ""))
        .put(pod("a/lost", "nowhere", &["10.9.9.8"], ""))
        .local(2, &pod("a/near", "here", &["10.0.1.2"], ""));
    world.compiler.set_host_mac(MacAddr([2; 6]));
    let built = world.build();
    let [(name, there)] = &built.node_ids[..] else {
        panic!("one number is given out")
    };
    assert_eq!((&**name, *there), ("there", NodeId(0)));
    for (addr, want) in [
        ("192.168.0.1", Place::Host),
        ("10.0.1.1", Place::Host),
        ("192.168.0.2", Place::RemoteHost(*there)),
        ("10.0.1.2", Place::Local(EndpointId(2))),
        ("10.0.1.3", Place::Unreachable),
        ("10.0.2.3", Place::Node(*there)),
        ("10.9.9.9", Place::Node(*there)),
        ("10.9.9.8", Place::Unreachable),
        ("1.1.1.1", Place::Outside),
    ] {
        assert_eq!(place(&built.snapshot, addr), want, "{addr}");
    }
    let table = built.snapshot.node();
    // The Node object's come first: ICMP errors come from the first one of their family.
    assert_eq!(table.addresses, [ip("192.168.0.1"), ip("10.0.1.1")].map(Ip::from));
    assert_eq!(table.pod_cidrs.len(), 1);
    assert_eq!(table.host.mac, MacAddr([2; 6]));
    assert_eq!(table.masquerade.addresses[..], [Ip::from(ip("10.0.1.2"))]);
    world.delete(Kind::Node, "", "there");
    let snapshot = world.build().snapshot;
    assert_eq!(place(&snapshot, "10.0.2.3"), Place::Outside);
    assert_eq!(place(&snapshot, "10.9.9.9"), Place::Unreachable);
    world.put(node("there", "192.168.0.2", "10.0.2.0/24"));
    let built = world.build();
    assert_eq!(
        (place(&built.snapshot, "10.9.9.9"), built.node_ids.len()),
        (Place::Node(*there), 0)
    );
}

/// Returns this node and another one, with a pod of this node at an address.
fn two_nodes_with_a_pod_at(address: &str) -> World {
    let mut world = World::new();
    world
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(node("there", "192.168.0.2", "10.0.2.0/24"))
        .local(2, &pod("a/near", "here", &[address], ""));
    world
}

/// The node's object is deleted and comes back with another pod range, while its pods run.
#[test]
fn a_node_whose_object_goes_keeps_its_properties_and_another_range_replaces_the_earlier_one() {
    let mut world = two_nodes_with_a_pod_at("10.0.1.9");
    let before = world.build().snapshot;
    world.delete(Kind::Node, "", "here");
    let gone = world.build();
    assert_eq!(gone.snapshot.node(), before.node());
    assert!(!gone.changed, "the node runs with and without its object");
    world.put(node("here", "192.168.0.1", "10.0.7.0/24"));
    let snapshot = world.build().snapshot;
    for (addr, want) in [
        ("10.0.7.1", Place::Host),
        ("10.0.7.8", Place::Unreachable),
        ("10.0.1.9", Place::Local(EndpointId(2))),
        ("10.0.1.1", Place::Outside),
        ("10.0.1.8", Place::Outside),
    ] {
        assert_eq!(place(&snapshot, addr), want, "{addr}");
    }
    assert_eq!(snapshot.node().masquerade.addresses[..], [Ip::from(ip("10.0.7.2"))]);
    // The earlier range may be another node's by now.
    world.put(node("other", "192.168.0.3", "10.0.1.0/24"));
    let snapshot = world.build().snapshot;
    assert!(matches!(place(&snapshot, "10.0.1.8"), Place::Node(_)));
    assert_eq!(place(&snapshot, "10.0.1.9"), Place::Local(EndpointId(2)));
}

/// A VIP, a second address of the uplink, node-local DNS at 169.254.20.10: whatever the node has is the node's.
#[test]
fn every_address_of_the_nodes_interfaces_is_the_nodes() {
    let mut world = two_nodes_with_a_pod_at("10.0.1.2");
    let local = ["192.168.0.99", "169.254.20.10", "192.168.0.2", "10.0.1.2"].map(ip);
    world.hold(local);
    assert!(
        !world.compiler.set_local_addresses(local.map(Ip::from).into()),
        "nothing has changed"
    );
    let snapshot = world.build().snapshot;
    for addr in ["192.168.0.1", "192.168.0.99", "169.254.20.10", "192.168.0.2"] {
        assert_eq!(place(&snapshot, addr), Place::Host, "{addr}");
    }
    assert_eq!(
        place(&snapshot, "10.0.1.2"),
        Place::Local(EndpointId(2)),
        "a pod's stays the pod's"
    );
    assert!(
        !snapshot.node().has_node_ports(Ip::from(local[0])),
        "node ports stay at the Node object's addresses"
    );
    // An address that goes, for example a VIP that moves to another node, is judged by policy again.
    world.hold([]);
    let built = world.build();
    assert_eq!(place(&built.snapshot, "192.168.0.99"), Place::Outside);
    assert!(matches!(place(&built.snapshot, "192.168.0.2"), Place::RemoteHost(_)));
    assert!(
        built.raised.contains(&EndpointId::HOST),
        "live connections are revalidated"
    );
}

#[test]
fn of_pods_with_one_address_an_attachment_counts_then_the_newest_that_is_not_terminating() {
    let mut world = World::new();
    world
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(node("there", "192.168.0.2", "10.0.2.0/24"))
        .put(namespace("a", ""))
        .put(policy(
            "a/p",
            "",
            Some(vec![rule(vec![pods("app=good")], vec![])]),
            None,
        ))
        .local(2, &pod("a/target", "here", &["10.0.1.2"], "app=target"));
    let remote = |name: &str, its_labels: &str, created: u64, terminating: bool| Pod {
        created,
        terminating,
        ..pod(name, "there", &["10.0.2.9"], its_labels)
    };
    // An address passes from a pod that terminates, or whose object is still there, to a new one.
    world
        .put(remote("a/x", "app=good", 1, false))
        .put(remote("a/y", "app=bad", 2, false));
    assert!(!admits(&world.build().snapshot, 2, "10.0.2.9", 80), "the newest is bad");
    world.put(remote("a/y", "app=bad", 2, true));
    assert!(
        admits(&world.build().snapshot, 2, "10.0.2.9", 80),
        "the one that stays is good"
    );
    world.put(remote("a/x", "app=good", 1, true));
    assert!(!admits(&world.build().snapshot, 2, "10.0.2.9", 80));
    // A pod of this node has no address without an attachment, whatever its status contains.
    let mut stale = remote("a/stale", "app=good", 9, false);
    stale.node = Some("here".into());
    world.put(stale);
    let snapshot = world.build().snapshot;
    assert!(!admits(&snapshot, 2, "10.0.2.9", 80));
    assert!(matches!(place(&snapshot, "10.0.2.9"), Place::Node(_)));
    // With one, no other pod counts.
    let mut old = remote("a/old", "app=bad", 99, false);
    old.ips = vec![ip("10.0.1.3")];
    let near = pod("a/near", "here", &["10.0.1.3"], "app=good");
    world.put(old).local(3, &near);
    let snapshot = world.build().snapshot;
    assert_eq!(place(&snapshot, "10.0.1.3"), Place::Local(EndpointId(3)));
    assert!(admits(&snapshot, 2, "10.0.1.3", 80));
}

#[test]
fn addresses_of_attachments_override_the_pods_and_differences_are_reported() {
    let mut world = World::new();
    world.put(node("here", "192.168.0.1", "10.0.1.0/24"));
    world.put(pod("a/p", "here", &["10.0.1.77"], "app=p"));
    assert_eq!(place(&world.build().snapshot, "10.0.1.77"), Place::Unreachable);
    world
        .compiler
        .attach(attachment(2, Some(&key("a/p")), &[ip("10.0.1.2")]));
    let snapshot = world.build().snapshot;
    assert_eq!(place(&snapshot, "10.0.1.2"), Place::Local(EndpointId(2)));
    assert!(!snapshot.knows(Ip::from(ip("10.0.1.77"))));
    let [difference] = &world.compiler.address_differences()[..] else {
        panic!("one difference")
    };
    assert_eq!(difference.attached, [Ip::from(ip("10.0.1.2"))].into());
    world.put(pod("a/p", "here", &["10.0.1.2"], "app=p"));
    assert_eq!(world.compiler.address_differences(), []);
}

#[test]
fn service_ranges_come_from_objects_unless_configured() {
    let cidr = |text: &str| ServiceCidr {
        name: "kubernetes".into(),
        cidrs: vec![text.parse().unwrap()],
    };
    let mut world = World::new();
    world.put(cidr("10.96.0.0/12"));
    let snapshot = world.build().snapshot;
    assert!(snapshot.node().in_service_range(Ip::from(ip("10.97.0.1"))));
    assert!(!snapshot.node().in_service_range(Ip::from(ip("10.1.0.1"))));

    let mut configured = World::new();
    configured.compiler = Compiler::new(NodeConfig {
        service_cidrs: vec![heddle_tables::Prefix::new(Ip::from(ip("10.1.0.0")), 16)],
        ..NodeConfig::named("here")
    });
    configured.put(cidr("10.98.0.0/16"));
    let snapshot = configured.build().snapshot;
    assert!(snapshot.node().in_service_range(Ip::from(ip("10.1.0.1"))));
    assert!(!snapshot.node().in_service_range(Ip::from(ip("10.98.0.1"))));
}
