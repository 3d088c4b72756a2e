//! Nodes on which Flannel runs.

use heddle_model::flannel::{FlannelNode, FlannelVtep};
use heddle_tables::{Place, RemoteNode, Unreachable};

use super::nodes::{headers, heddle_node, path, underlay};
use super::*;
use crate::UplinkMtu;

const V4: &str = "192.168.0.2";
const V6: &str = "fd00:99::2";

fn vtep(vni: u32, last: u8, address: Option<&str>) -> Option<FlannelVtep> {
    Some(FlannelVtep {
        vni,
        mac: format!("12:00:00:00:00:{last:02x}").parse().unwrap(),
        address: address.map(ip),
    })
}

/// Returns a node with Flannel's annotations.
fn flannel_node(v4: Option<FlannelVtep>, v6: Option<FlannelVtep>) -> Node {
    Node {
        internal_ips: vec![ip(V4), ip(V6)],
        flannel: Some(FlannelNode {
            backend: "vxlan".into(),
            v4,
            v6,
        }),
        ..node("there", V4, "10.0.2.0/24")
    }
}

/// Returns a world with this node, both families and Flannel's port.
fn world(is_on: bool) -> World {
    let mut world = World::with(|config| {
        config.flannel = is_on;
        config.tunnel.network.port = 8472;
    });
    world.put(Node {
        internal_ips: vec![ip("192.168.0.1"), ip("fd00:99::1")],
        ..node("here", "192.168.0.1", "10.0.1.0/24")
    });
    world.compiler.set_uplink_mtu(UplinkMtu::new(1500, false));
    world
        .compiler
        .set_underlay(underlay(&[V4, V6, "203.0.113.9", "192.168.0.3"]));
    world
}

fn remote(snapshot: &Snapshot, name: &str) -> RemoteNode {
    let mut nodes = snapshot.remote_nodes();
    let (_, node) = nodes.find(|(_, node)| &*node.name == name).unwrap();
    RemoteNode::clone(node)
}

#[test]
fn each_family_is_reached_by_its_device() {
    let mut world = world(true);
    world.put(flannel_node(vtep(1, 4, Some(V4)), vtep(1, 6, Some(V6))));
    let snapshot = world.build().snapshot;
    let there = remote(&snapshot, "there");
    assert!(!there.takes_own, "its own addresses are the kernel's");
    assert_eq!(there.address, Some(Ip::from(ip(V4))));
    let (v4, v6) = (there.path.unwrap(), there.path_v6.unwrap());
    assert_eq!(v4.next_hop.dst, MacAddr([0x12, 0, 0, 0, 0, 4]));
    assert_eq!(v6.next_hop.dst, MacAddr([0x12, 0, 0, 0, 0, 6]));
    assert_eq!((v4.mtu, v6.mtu), (1450, 1430));
    assert_eq!(v6.outer.unwrap().len() - v4.outer.unwrap().len(), 20);
    let id = snapshot.remote_nodes().next().unwrap().0;
    assert_eq!(snapshot.node_path_for(id, true), Some(&v4));
    assert_eq!(snapshot.node_path_for(id, false), Some(&v6));
    assert_eq!(&headers(&snapshot, "there")[36..38], 8472_u16.to_be_bytes());
    // One device takes both families; so does the one over IPv4 while there is no route over IPv6.
    world.put(flannel_node(None, vtep(1, 6, None)));
    let there = remote(&world.build().snapshot, "there");
    assert_eq!(
        there.address,
        Some(Ip::from(ip(V6))),
        "without an annotation its InternalIP"
    );
    assert_eq!((there.path, there.path_v6), (Ok(v6), None));
    world.put(flannel_node(vtep(1, 4, Some(V4)), vtep(1, 6, Some(V6))));
    world.compiler.set_underlay(underlay(&[V4]));
    let built = world.build();
    let there = remote(&built.snapshot, "there");
    assert_eq!((there.path, there.path_v6), (Ok(v4), None));
    assert_eq!(built.raised, [EndpointId::UPLINK], "flows have the other MTU");
}

#[test]
fn an_address_of_its_own_is_the_nodes() {
    let mut world = world(true);
    world.put(flannel_node(vtep(1, 4, Some("203.0.113.9")), None));
    let snapshot = world.build().snapshot;
    let there = remote(&snapshot, "there");
    assert_eq!(
        (there.address, there.path.is_ok()),
        (Some(Ip::from(ip("203.0.113.9"))), true)
    );
    let known = snapshot.address(Ip::from(ip("203.0.113.9"))).place;
    assert!(matches!(known, Place::RemoteHost(_)), "tunnels come from it: {known:?}");
    world.put(flannel_node(vtep(1, 4, Some(V4)), None));
    let known = world.build().snapshot.address(Ip::from(ip("203.0.113.9"))).place;
    assert_eq!(known, Place::Outside);
    // Another node's address is not taken over.
    world.put(heddle_node("a", "192.168.0.3", "10.0.3.0/24"));
    world.put(flannel_node(vtep(1, 4, Some("192.168.0.3")), None));
    let snapshot = world.build().snapshot;
    assert_eq!(path(&snapshot, "there"), Err(Unreachable::SharedInternalIp));
    assert!(path(&snapshot, "a").is_ok());
}

#[test]
fn a_node_that_cannot_be_reached_says_why() {
    let mut world = world(true);
    let reached = flannel_node(vtep(1, 4, Some(V4)), None);
    let mut host_gw = reached.clone();
    host_gw.flannel.as_mut().unwrap().backend = "host-gw".into();
    for (node, reason) in [
        (host_gw, Unreachable::FlannelBackend),
        (flannel_node(vtep(2, 4, Some(V4)), None), Unreachable::FlannelVni),
        (flannel_node(None, None), Unreachable::FlannelWithoutVtep),
        (
            flannel_node(vtep(1, 4, Some("192.168.0.77")), None),
            Unreachable::NoRoute,
        ),
        (node("there", V4, "10.0.2.0/24"), Unreachable::NoAnnotation),
    ] {
        world.put(node);
        assert_eq!(path(&world.build().snapshot, "there"), Err(reason));
        world.put(reached.clone());
        assert!(path(&world.build().snapshot, "there").is_ok());
    }
}

#[test]
fn heddles_annotation_comes_first_and_without_the_key_flannels_count_for_nothing() {
    let annotated = flannel_node(vtep(1, 4, Some(V4)), vtep(1, 6, Some(V6)));
    let mut off = world(false);
    off.put(annotated.clone());
    assert_eq!(path(&off.build().snapshot, "there"), Err(Unreachable::Flannel));
    // The node is converted.
    let mut world = world(true);
    world.put(annotated.clone());
    world.build();
    world.put(Node {
        vtep: Some("02:00:00:00:00:77".parse().unwrap()),
        ..annotated
    });
    let built = world.build();
    let there = remote(&built.snapshot, "there");
    assert_eq!(there.path.unwrap().next_hop.dst, MacAddr([2, 0, 0, 0, 0, 0x77]));
    assert_eq!((there.takes_own, there.path_v6), (true, None));
    assert_eq!(built.raised, [EndpointId::UPLINK]);
}
