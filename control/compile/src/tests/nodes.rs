//! The places of addresses, and the node's own table.

use super::*;
use crate::{Underlay, UnderlayRoute, UplinkMtu};
use heddle_model::ServiceCidr;
use heddle_tables::{Exit, NextHopId, NodeId, NodePath, Place, TunnelMode, Unreachable, Uplink, UplinkPort};

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
    old.ips = [ip("10.0.1.3")].into();
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

/// Returns a node that runs heddle.
pub(super) fn heddle_node(name: &str, address: &str, pod_cidr: &str) -> Node {
    Node {
        vtep: Some("02:68:65:64:64:6c".parse().unwrap()),
        ..node(name, address, pod_cidr)
    }
}

pub(super) const NEIGHBOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
pub(super) const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Returns an underlay in which these addresses are neighbors of the uplink.
pub(super) fn underlay(addresses: &[&str]) -> Underlay {
    let route = UnderlayRoute {
        neighbor: Some(NEIGHBOR),
        on_link: true,
        mtu: None,
    };
    Underlay {
        uplink: Uplink {
            mac: UPLINK,
            ports: vec![UplinkPort {
                port: PortId(9),
                worker: WorkerId(1),
            }],
        },
        routes: addresses.iter().map(|address| (ip(address), route)).collect(),
        ..Underlay::default()
    }
}

pub(super) fn path(snapshot: &Snapshot, name: &str) -> Result<NodePath, Unreachable> {
    let mut nodes = snapshot.remote_nodes();
    nodes.find(|(_, node)| &*node.name == name).unwrap().1.path
}

pub(super) fn headers(snapshot: &Snapshot, name: &str) -> Vec<u8> {
    let outer = path(snapshot, name).unwrap().outer.unwrap();
    let mut bytes = vec![0; outer.len()];
    assert!(outer.write(&mut bytes, 0, 0, 1, heddle_wire::checksum::Sum::ZERO));
    bytes
}

#[test]
fn another_node_is_reached_by_the_tunnel_if_it_runs_heddle_and_the_kernel_knows_a_way() {
    let mut world = World::new();
    world
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(heddle_node("there", "192.168.0.2", "10.0.2.0/24"))
        .put(node("silent", "192.168.0.3", "10.0.3.0/24"))
        .put(heddle_node("far", "192.168.9.4", "10.0.4.0/24"))
        .put(heddle_node("six", "fd00::5", "10.0.5.0/24"));
    world.compiler.set_uplink_mtu(UplinkMtu::new(1500, false));
    let paths = |snapshot: &Snapshot| {
        ["there", "silent", "far", "six"].map(|name| path(snapshot, name).map(|path| (path.mtu, path.next_hop.exit)))
    };
    // Without an underlay nothing is reached.
    let none = Err(Unreachable::NoRoute);
    assert_eq!(
        paths(&world.build().snapshot),
        [none, none, none, Err(Unreachable::NoInternalIp)]
    );
    world.compiler.set_underlay(underlay(&["192.168.0.2", "192.168.0.3"]));
    let snapshot = world.build().snapshot;
    assert_eq!(
        paths(&snapshot),
        [
            Ok((1450, Exit::Uplink)),
            Err(Unreachable::NoAnnotation),
            none,
            Err(Unreachable::NoInternalIp)
        ]
    );
    let outer = headers(&snapshot, "there");
    assert_eq!((&outer[..6], &outer[6..12]), (&NEIGHBOR.0[..], &UPLINK.0[..]));
    assert_eq!(
        (&outer[26..30], &outer[30..34]),
        (&[192, 168, 0, 1][..], &[192, 168, 0, 2][..])
    );
    assert_eq!(
        (&outer[36..38], &outer[46..49]),
        (&4789_u16.to_be_bytes()[..], &[0, 0, 1][..])
    );
    let there = path(&snapshot, "there").unwrap();
    assert_eq!(
        (there.next_hop.dst, there.next_hop.src),
        (MacAddr::GATEWAY, MacAddr::GATEWAY)
    );
    // A route with an MTU of its own, and an unresolved neighbor: the kernel sends the tunnel's packets.
    let mut changed = underlay(&["192.168.0.2"]);
    changed.routes.get_mut(&ip("192.168.0.2")).unwrap().mtu = Some(1400);
    changed.routes.get_mut(&ip("192.168.0.2")).unwrap().neighbor = None;
    world.compiler.set_host_mac(MacAddr([2; 6]));
    world.compiler.set_underlay(changed);
    let built = world.build();
    assert_eq!(paths(&built.snapshot)[0], Ok((1350, Exit::Kernel)));
    assert_eq!(headers(&built.snapshot, "there")[..6], [2; 6]);
    assert_eq!(built.raised, [EndpointId::UPLINK], "flows have the earlier MTU");
    // Without a route packets are dropped, and flows are judged when there is one again.
    world.compiler.set_underlay(underlay(&[]));
    let built = world.build();
    assert_eq!(paths(&built.snapshot)[0], none);
    assert!(built.raised.is_empty(), "{:?}", built.raised);
    world.compiler.set_underlay(underlay(&["192.168.0.2"]));
    assert_eq!(world.build().raised, [EndpointId::UPLINK]);
    // An uplink without ports: the kernel sends everything.
    let mut closed = underlay(&["192.168.0.2"]);
    closed.uplink.ports.clear();
    world.compiler.set_underlay(closed);
    assert_eq!(paths(&world.build().snapshot)[0], Ok((1450, Exit::Kernel)));
    // The annotation goes, and the node.
    world.compiler.set_underlay(underlay(&["192.168.0.2"]));
    world.build();
    world.put(node("there", "192.168.0.2", "10.0.2.0/24"));
    let built = world.build();
    assert_eq!(path(&built.snapshot, "there"), Err(Unreachable::NoAnnotation));
    assert_eq!(built.raised, [EndpointId::UPLINK]);
    world.delete(Kind::Node, "", "there");
    let snapshot = world.build().snapshot;
    assert!(snapshot.remote_nodes().all(|(_, node)| &*node.name != "there"));
}

#[test]
fn a_neighbor_that_changes_is_followed_without_judging_flows_again() {
    let mut world = World::new();
    world
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(heddle_node("there", "192.168.0.2", "10.0.2.0/24"));
    world.compiler.set_underlay(underlay(&["192.168.0.2"]));
    world.build();
    let mut moved = underlay(&["192.168.0.2"]);
    moved.routes.get_mut(&ip("192.168.0.2")).unwrap().neighbor = Some(MacAddr([6; 6]));
    moved.neighbors.insert(ip("192.168.0.254"), MacAddr([7; 6]));
    world.compiler.set_underlay(moved.clone());
    let built = world.build();
    assert_eq!(headers(&built.snapshot, "there")[..6], [6; 6]);
    assert!(built.raised.is_empty());
    // The neighbor is a next hop, and keeps its number when its address changes.
    let id = built.snapshot.neighbor(MacAddr([7; 6])).unwrap();
    assert_eq!(built.snapshot.next_hop(id).unwrap().dst, MacAddr([7; 6]));
    moved.neighbors.insert(ip("192.168.0.254"), MacAddr([8; 6]));
    world.compiler.set_underlay(moved.clone());
    let snapshot = world.build().snapshot;
    assert_eq!(
        (snapshot.neighbor(MacAddr([8; 6])), snapshot.neighbor(MacAddr([7; 6]))),
        (Some(id), None)
    );
    assert_eq!(snapshot.next_hop(id).unwrap().dst, MacAddr([8; 6]));
    moved.neighbors.clear();
    world.compiler.set_underlay(moved);
    let snapshot = world.build().snapshot;
    assert_eq!(
        (snapshot.neighbor(MacAddr([8; 6])), snapshot.next_hop(id)),
        (None, None)
    );
    assert!(snapshot.next_hop(NextHopId::KERNEL).is_some());
}

#[test]
fn direct_routing_needs_a_neighbor_and_auto_takes_the_tunnel_elsewhere() {
    for (mode, near, far, unresolved) in [
        (TunnelMode::Vxlan, Ok(true), Ok(true), Ok(true)),
        (TunnelMode::None, Ok(false), Ok(false), Err(Unreachable::NoNeighbor)),
        (TunnelMode::Auto, Ok(false), Ok(true), Ok(true)),
    ] {
        let mut world = World::with(|config| config.tunnel.mode = mode);
        world
            .put(node("here", "192.168.0.1", "10.0.1.0/24"))
            .put(heddle_node("near", "192.168.0.2", "10.0.2.0/24"))
            .put(heddle_node("far", "192.168.9.3", "10.0.3.0/24"))
            .put(heddle_node("unresolved", "192.168.0.4", "10.0.4.0/24"));
        let mut changed = underlay(&["192.168.0.2", "192.168.9.3", "192.168.0.4"]);
        changed.routes.get_mut(&ip("192.168.9.3")).unwrap().on_link = false;
        changed.routes.get_mut(&ip("192.168.0.4")).unwrap().neighbor = None;
        world.compiler.set_underlay(changed);
        let snapshot = world.build().snapshot;
        let by_tunnel = |name| path(&snapshot, name).map(|path| path.outer.is_some());
        assert_eq!(
            [by_tunnel("near"), by_tunnel("far"), by_tunnel("unresolved")],
            [near, far, unresolved],
            "{mode:?}"
        );
        assert_eq!(snapshot.node().tunnel.is_some(), mode != TunnelMode::None);
        // A router without a tunnel would send a forwarded packet back.
        let takes_forwarded = |name: &str| {
            let mut nodes = snapshot.remote_nodes();
            nodes.any(|(_, node)| *node.name == *name && node.takes_forwarded)
        };
        let by_router = far.is_ok() && mode != TunnelMode::None;
        assert_eq!(
            ["near", "far", "unresolved"].map(takes_forwarded),
            [near.is_ok(), by_router, unresolved.is_ok()],
            "{mode:?}"
        );
    }
}

#[test]
fn two_nodes_with_one_address_are_not_both_reached() {
    let mut world = World::new();
    world
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(heddle_node("b", "192.168.0.2", "10.0.2.0/24"))
        .put(heddle_node("own", "192.168.0.1", "10.0.4.0/24"));
    world.compiler.set_underlay(underlay(&["192.168.0.2", "192.168.0.1"]));
    let snapshot = world.build().snapshot;
    assert!(path(&snapshot, "b").is_ok());
    assert_eq!(path(&snapshot, "own"), Err(Unreachable::SharedInternalIp));
    world.put(heddle_node("a", "192.168.0.2", "10.0.3.0/24"));
    let snapshot = world.build().snapshot;
    assert!(path(&snapshot, "a").is_ok());
    assert_eq!(path(&snapshot, "b"), Err(Unreachable::SharedInternalIp));
    world.delete(Kind::Node, "", "a");
    assert!(path(&world.build().snapshot, "b").is_ok());
}
