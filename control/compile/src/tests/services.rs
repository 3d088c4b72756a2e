//! From Services to sets of backends.

use super::*;
use heddle_model::{
    AddressType, ClusterIps, Endpoint, EndpointPort, EndpointSlice, LoadBalancing, Service, ServicePort, ServiceType,
    SessionAffinity, TargetPort, TrafficPolicy,
};
use heddle_tables::{Choice, ServiceLookup};

pub(super) fn service(name: &str, ips: &[&str], ports: &[(&str, u16)]) -> Service {
    Service {
        key: key(name),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps::Addresses(ips.iter().map(|i| ip(i)).collect()),
        ports: ports
            .iter()
            .map(|(name, number)| ServicePort {
                name: (*name).into(),
                protocol: Protocol::Tcp,
                port: port(*number),
                target_port: TargetPort::Number(port(*number)),
                node_port: None,
            })
            .collect(),
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

/// Endpoints as `address node state`, state one of r(eady), s(erving while terminating), n(ot ready).
pub(super) fn slice(name: &str, of: &str, ports: &[(&str, u16)], endpoints: &[(&str, &str, char)]) -> EndpointSlice {
    EndpointSlice {
        key: key(name),
        service: Some(key(of)),
        proxy_name: None,
        headless: false,
        address_type: if endpoints.iter().any(|e| e.0.contains(':')) {
            AddressType::V6
        } else {
            AddressType::V4
        },
        ports: ports
            .iter()
            .map(|(name, number)| EndpointPort {
                name: (*name).into(),
                protocol: Protocol::Tcp,
                port: PortNumber::new(*number),
            })
            .collect(),
        endpoints: endpoints
            .iter()
            .map(|(addr, node, state)| Endpoint {
                address: ip(addr),
                ready: *state == 'r',
                serving: *state != 'n',
                terminating: *state == 's',
                node: Some((*node).into()),
                zone: None,
                hint_zones: Vec::new(),
                hint_nodes: Vec::new(),
            })
            .collect(),
    }
}

/// Returns the fate of a connection to a frontend: `not a service`, `no such port`, `reject`, `drop`, or the backends.
pub(super) fn lookup(snapshot: &Snapshot, addr: &str, port: u16) -> String {
    match snapshot.frontend(Ip::from(ip(addr)), Proto::TCP, port) {
        ServiceLookup::NotAService => "not a service".into(),
        ServiceLookup::NoSuchPort => "no such port".into(),
        ServiceLookup::Frontend(frontend) => match frontend.pick(0) {
            Choice::Reject => "reject".into(),
            Choice::Drop => "drop".into(),
            Choice::Backend(_) => {
                let list: Vec<_> = frontend
                    .backends
                    .list()
                    .iter()
                    .map(|b| b.socket().to_string())
                    .collect();
                list.join(" ")
            }
        },
    }
}

#[test]
fn serving_terminating_endpoints_are_used_if_none_is_ready() {
    let mut world = World::new();
    world.put(service("a/web", &["10.96.0.1"], &[("", 80)]));
    assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), "reject");
    for (endpoints, want) in [
        (
            &[("10.0.0.2", "x", 'r'), ("10.0.0.1", "x", 'r'), ("10.0.0.3", "x", 'n')][..],
            "10.0.0.1:8080 10.0.0.2:8080",
        ),
        (&[("10.0.0.1", "x", 's'), ("10.0.0.2", "x", 'r')][..], "10.0.0.2:8080"),
        (&[("10.0.0.1", "x", 's'), ("10.0.0.2", "x", 'n')][..], "10.0.0.1:8080"),
        (&[("10.0.0.1", "x", 'n')][..], "reject"),
    ] {
        world.put(slice("a/web-1", "a/web", &[("", 8080)], endpoints));
        assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), want);
    }
    let snapshot = world.build().snapshot;
    assert_eq!(lookup(&snapshot, "10.96.0.1", 81), "no such port");
    assert_eq!(lookup(&snapshot, "10.96.0.2", 80), "not a service");
    world.delete(Kind::Service, "a", "web");
    assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), "not a service");
}

#[test]
fn ports_of_services_and_slices_are_matched_by_name_and_family() {
    let mut world = World::new();
    world
        .put(service(
            "a/web",
            &["10.96.0.1", "fd00:96::1"],
            &[("http", 80), ("admin", 81)],
        ))
        .put(slice(
            "a/s1",
            "a/web",
            &[("http", 8080), ("admin", 9000)],
            &[("10.0.0.1", "x", 'r')],
        ))
        .put(slice(
            "a/s2",
            "a/web",
            &[("http", 8081)],
            &[("10.0.0.2", "x", 'r'), ("10.0.0.1", "x", 'r')],
        ))
        .put(slice(
            "a/s3",
            "a/web",
            &[("http", 8080), ("admin", 9000)],
            &[("fd00::1", "x", 'r')],
        ));
    let snapshot = world.build().snapshot;
    assert_eq!(
        lookup(&snapshot, "10.96.0.1", 80),
        "10.0.0.1:8080 10.0.0.1:8081 10.0.0.2:8081"
    );
    assert_eq!(lookup(&snapshot, "10.96.0.1", 81), "10.0.0.1:9000");
    assert_eq!(lookup(&snapshot, "fd00:96::1", 80), "[fd00::1]:8080");
    let names: std::collections::BTreeSet<_> = snapshot.frontends().map(|f| f.name.to_string()).collect();
    assert_eq!(names, ["a/web:admin".to_owned(), "a/web:http".to_owned()].into());
}

#[test]
fn traffic_policy_local_drops_without_a_local_endpoint() {
    let mut world = World::new();
    let mut local = service("a/web", &["10.96.0.1"], &[("", 80)]);
    local.internal_policy = TrafficPolicy::Local;
    world.put(local);
    for (endpoints, want) in [
        (
            &[("10.0.0.1", "here", 'r'), ("10.0.0.2", "there", 'r')][..],
            "10.0.0.1:80",
        ),
        (
            &[("10.0.0.1", "here", 's'), ("10.0.0.2", "there", 'r')][..],
            "10.0.0.1:80",
        ),
        (&[("10.0.0.2", "there", 'r')][..], "drop"),
        (&[("10.0.0.2", "there", 'n')][..], "reject"),
    ] {
        world.put(slice("a/web-1", "a/web", &[("", 80)], endpoints));
        assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), want);
    }
}

#[test]
fn headless_foreign_and_external_services_have_no_frontend() {
    let mut world = World::new();
    let mut headless = service("a/headless", &[], &[("", 80)]);
    headless.cluster_ips = ClusterIps::Headless;
    let mut foreign = service("a/foreign", &["10.96.0.1"], &[("", 80)]);
    foreign.proxy_name = Some("other".into());
    let mut external = service("a/external", &["10.96.0.2"], &[("", 80)]);
    external.service_type = ServiceType::ExternalName;
    world.put(headless).put(foreign).put(external);
    assert_eq!(world.build().snapshot.sizes().frontends, 0);
}

#[test]
fn lost_backends_are_reported_once() {
    let mut world = World::new();
    let ends: Vec<_> = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        .iter()
        .map(|a| (*a, "x", 'r'))
        .collect();
    world
        .put(service("a/web", &["10.96.0.1"], &[("", 80)]))
        .put(slice("a/s", "a/web", &[("", 80)], &ends));
    assert_eq!(world.build().removed_backends, []);
    world.put(slice("a/s", "a/web", &[("", 80)], &ends[1..]));
    let gone = |built: BuildResult| -> Vec<_> {
        built
            .removed_backends
            .iter()
            .map(|r| r.backend.socket().to_string())
            .collect()
    };
    assert_eq!(gone(world.build()), ["10.0.0.1:80"]);
    assert_eq!(gone(world.build()), [""; 0]);
    world.delete(Kind::Service, "a", "web");
    assert_eq!(gone(world.build()), ["10.0.0.2:80", "10.0.0.3:80"]);
}

#[test]
fn an_address_may_pass_from_one_service_to_another() {
    let mut world = World::new();
    for (from, to) in [("a/one", "a/two"), ("a/two", "a/one")] {
        world.put(service(from, &["10.96.0.1"], &[("", 80)]));
        world.put(slice("a/s", from, &[("", 80)], &[("10.0.0.1", "x", 'r')]));
        assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), "10.0.0.1:80");
        // The second Service waits for the address, and gets it in the same changes that remove the first Service.
        world.put(service(to, &["10.96.0.1"], &[("", 80)]));
        world.put(slice("a/t", to, &[("", 80)], &[("10.0.0.9", "x", 'r')]));
        let name = from.split_once('/').unwrap().1;
        world.delete(Kind::Service, "a", name);
        assert_eq!(
            lookup(&world.build().snapshot, "10.96.0.1", 80),
            "10.0.0.9:80",
            "{from} to {to}"
        );
        world.delete(Kind::Service, "a", to.split_once('/').unwrap().1);
        world
            .delete(Kind::EndpointSlice, "a", "s")
            .delete(Kind::EndpointSlice, "a", "t");
        assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), "not a service");
    }
}
