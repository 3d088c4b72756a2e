//! Host ports of local pods.

use heddle_tables::{Client, FrontendKind};

use super::frontends::{found, outcome};
use super::services::service;
use super::*;
use crate::PodHostPort;

const NODE: &str = "192.0.2.1";
/// Another address of the node.
const OTHER: &str = "192.0.2.2";
const ALIAS: &str = "10.0.0.3";

fn at(address: &str, port: u16) -> FrontendKey {
    FrontendKey {
        ip: Ip::from(ip(address)),
        proto: Proto::TCP,
        port,
    }
}

/// Attaches a pod with these host ports: address, port of the node, and port of the pod.
fn attach(world: &mut World, id: u16, ips: &[&str], host_ports: &[(Option<&str>, u16, u16)]) {
    let pod = pod(&format!("a/p{id}"), "here", ips, "");
    world.put(pod.clone());
    let mapped = host_ports
        .iter()
        .flat_map(|(address, host_port, port)| PodHostPort::of(address.map(ip), Proto::TCP, *host_port, *port));
    world.compiler.attach(Attachment {
        host_ports: mapped.collect(),
        ..attachment(id, Some(&pod.key), &pod.ips)
    });
}

fn world() -> World {
    let mut world = World::new();
    world.put(node("here", NODE, "10.0.0.0/24"));
    world.hold([ip(NODE), ip(OTHER)]);
    world
}

fn kind_at(snapshot: &Snapshot, address: &str, port: u16) -> Option<FrontendKind> {
    found(snapshot, address, Proto::TCP, port).map(|frontend| frontend.kind)
}

#[test]
fn a_host_port_is_at_every_address_or_at_one() {
    let mut world = world();
    let ports = [
        (None, 80, 8080),
        (Some(OTHER), 81, 8081),
        (Some("0.0.0.0"), 82, 8082),
        (Some("::"), 83, 8083),
    ];
    attach(&mut world, 5, &["10.0.0.5"], &ports);
    let built = world.build();
    assert!(built.new_frontends);
    let snapshot = built.snapshot;
    let open = |address| [80, 81, 82, 83].map(|port| kind_at(&snapshot, address, port).is_some());
    assert_eq!(open(NODE), [true, false, true, false]);
    assert_eq!(open(OTHER), [true, true, true, false]);
    // The pod has no IPv6 address, and another address is not the node's.
    assert_eq!(open("10.0.0.5"), [false; 4]);
    for client in [Client::Pod, Client::ThisNode, Client::Outside] {
        assert_eq!(outcome(&snapshot, NODE, 80, client), "5");
    }
    let frontend = found(&snapshot, OTHER, Proto::TCP, 81).unwrap();
    assert_eq!((frontend.backends.list()[0].port, &*frontend.name), (8081, "a/p5"));
    world.compiler.detach(EndpointId(5));
    let built = world.build();
    assert_eq!(kind_at(&built.snapshot, NODE, 80), None);
    assert!(built.removed_backends.iter().any(|gone| gone.frontend == at(OTHER, 81)));
}

#[test]
fn a_service_precedes_a_host_port_and_the_last_pod_the_others() {
    let mut world = world();
    for id in [5, 6] {
        attach(
            &mut world,
            id,
            &[&format!("10.0.0.{id}")],
            &[(None, 30_080, 80), (Some(OTHER), 80, 80)],
        );
    }
    assert_eq!(outcome(&world.build().snapshot, NODE, 30_080, Client::Outside), "6");
    // The ending pod was attached first, so its end changes nothing.
    world.compiler.detach(EndpointId(5));
    let built = world.build();
    assert_eq!(outcome(&built.snapshot, OTHER, 80, Client::Outside), "6");
    assert_eq!(built.removed_backends, []);
    // A Service takes the port, and gives it back.
    let mut web = service("a/web", &["10.96.0.1"], &[("", 80)]);
    web.ports[0].node_port = PortNumber::new(30_080);
    world.put(web);
    let built = world.build();
    assert_eq!(kind_at(&built.snapshot, NODE, 30_080), Some(FrontendKind::NodePort));
    assert_eq!(kind_at(&built.snapshot, OTHER, 80), Some(FrontendKind::HostPort));
    assert_eq!(built.removed_backends.len(), 1);
    attach(&mut world, 7, &["10.0.0.7"], &[(None, 30_080, 80)]);
    assert_eq!(
        kind_at(&world.build().snapshot, NODE, 30_080),
        Some(FrontendKind::NodePort)
    );
    world.delete(Kind::Service, "a", "web");
    assert_eq!(outcome(&world.build().snapshot, NODE, 30_080, Client::Outside), "7");
}

#[test]
fn the_nodes_processes_reach_a_host_port_at_one_address_by_its_alias() {
    const LOOPBACK: &str = "127.0.0.1";
    let mut world = world();
    attach(
        &mut world,
        5,
        &["10.0.0.5"],
        &[(Some(OTHER), 80, 80), (Some(LOOPBACK), 80, 81)],
    );
    let aliases = [
        (at(OTHER, 80), Some(at(ALIAS, 1))),
        (at(LOOPBACK, 80), Some(at(ALIAS, 2))),
    ];
    world.compiler.set_aliases(&world.cluster, aliases);
    let snapshot = world.build().snapshot;
    let backend = |address: &str, port| {
        let frontend = found(&snapshot, address, Proto::TCP, port)?;
        Some(frontend.backends.list()[0].port)
    };
    assert_eq!((backend(OTHER, 80), backend(ALIAS, 1)), (Some(80), Some(80)));
    // No packet to a loopback address reaches heddle.
    assert_eq!((backend(LOOPBACK, 80), backend(ALIAS, 2)), (None, Some(81)));
    world.compiler.set_aliases(&world.cluster, [(at(OTHER, 80), None)]);
    let snapshot = world.build().snapshot;
    assert_eq!(kind_at(&snapshot, ALIAS, 1), None);
    assert_eq!(kind_at(&snapshot, OTHER, 80), Some(FrontendKind::HostPort));
    world.compiler.detach(EndpointId(5));
    assert_eq!(kind_at(&world.build().snapshot, ALIAS, 2), None);
}
