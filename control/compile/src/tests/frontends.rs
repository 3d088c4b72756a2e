//! From Services to frontends: node ports, load balancers, external addresses, traffic policies, topology.

use std::collections::BTreeMap;

use heddle_model::{
    ClusterIps, EndpointSlice, IngressMode, LoadBalancerIngress, LoadBalancing, Service, ServiceType, SessionAffinity,
    TrafficDistribution, TrafficPolicy,
};
use heddle_tables::{Balancing, Choice, Client, Frontend, ServiceLookup};

use super::services::{lookup, service, slice};
use super::*;

pub(super) const NODE: &str = "192.0.2.1";
pub(super) const BALANCER: &str = "203.0.113.10";

/// Makes a LoadBalancer Service on port 80 with a node port.
pub(super) fn balanced(name: &str, cluster_ip: &str, policy: TrafficPolicy) -> Service {
    let mut service = service(name, &[cluster_ip], &[("", 80)]);
    service.service_type = ServiceType::LoadBalancer;
    service.ports[0].node_port = PortNumber::new(30_080);
    service.external_policy = policy;
    service.load_balancer_ingress = vec![LoadBalancerIngress {
        ip: ip(BALANCER),
        mode: IngressMode::Vip,
    }];
    service
}

pub(super) fn here(zone: &str) -> Node {
    let mut node = node("here", NODE, "10.0.0.0/24");
    node.labels = labels(&format!("topology.kubernetes.io/zone={zone}"));
    node
}

pub(super) fn found(snapshot: &Snapshot, addr: &str, proto: Proto, port: u16) -> Option<Arc<Frontend>> {
    match snapshot.frontend(Ip::from(ip(addr)), proto, port) {
        ServiceLookup::Frontend(frontend) => Some(Arc::clone(frontend)),
        ServiceLookup::NoSuchPort | ServiceLookup::NotAService => None,
    }
}

/// Returns the fate of a client's connection to a frontend: `drop`, `reject`, or the last parts of backend addresses.
pub(super) fn outcome(snapshot: &Snapshot, addr: &str, port: u16, client: Client) -> String {
    let frontend = found(snapshot, addr, Proto::TCP, port).unwrap();
    let backends = frontend.backends_for(client);
    match backends.pick(0) {
        Choice::Reject => "reject".into(),
        Choice::Drop => "drop".into(),
        Choice::Backend(_) => {
            let list = backends.list().iter().map(|b| b.ip.to_string());
            let last: Vec<_> = list
                .map(|ip| ip.rsplit('.').next().unwrap_or_default().to_owned())
                .collect();
            last.join(" ")
        }
    }
}

#[test]
fn external_traffic_policies_depend_on_the_client() {
    let mut world = World::new();
    world.put(here("a"));
    type Ends = &'static [(&'static str, &'static str, char)];
    let cases: [(Ends, [&str; 3]); 6] = [
        (
            &[("10.0.0.1", "here", 'r'), ("10.0.1.2", "there", 'r')],
            ["1 2", "1 2", "1"],
        ),
        (
            &[("10.0.0.1", "here", 's'), ("10.0.1.2", "there", 'r')],
            ["2", "2", "1"],
        ),
        (&[("10.0.0.1", "here", 's'), ("10.0.0.3", "here", 'r')], ["3", "3", "3"]),
        (
            &[("10.0.0.1", "here", 'n'), ("10.0.1.2", "there", 's')],
            ["2", "2", "drop"],
        ),
        (&[("10.0.0.1", "here", 'n')], ["reject", "reject", "reject"]),
        (&[], ["reject", "reject", "reject"]),
    ];
    let clients = [Client::Pod, Client::ThisNode, Client::Outside];
    for (ends, local) in cases {
        world.put(slice("a/s", "a/web", &[("", 8080)], ends));
        for policy in [TrafficPolicy::Local, TrafficPolicy::Cluster] {
            world.put(balanced("a/web", "10.96.0.1", policy));
            let snapshot = world.build().snapshot;
            for (addr, port) in [(BALANCER, 80), (NODE, 30_080)] {
                let want = if policy == TrafficPolicy::Local {
                    local
                } else {
                    [local[0]; 3]
                };
                assert_eq!(
                    clients.map(|c| outcome(&snapshot, addr, port, c)),
                    want,
                    "{policy:?} {ends:?}"
                );
            }
            let cluster = found(&snapshot, "10.96.0.1", Proto::TCP, 80).unwrap();
            assert!(
                cluster.inside.is_none(),
                "the external policy is not the cluster address's"
            );
        }
    }
}

#[test]
fn an_alias_has_the_backends_of_its_frontend() {
    const ALIAS: &str = "10.0.0.3";
    let mut world = World::new();
    world
        .put(here("a"))
        .put(balanced("a/web", "10.96.0.1", TrafficPolicy::Local))
        .put(slice("a/s", "a/web", &[("", 8080)], &[("10.0.1.2", "there", 'r')]));
    let key = |ip_: &str, port| FrontendKey {
        ip: Ip::from(ip(ip_)),
        proto: Proto::TCP,
        port,
    };
    let before = world.build().snapshot;
    assert!(found(&before, ALIAS, Proto::TCP, 7).is_none());
    world
        .compiler
        .set_aliases(&world.cluster, [(key(BALANCER, 80), Some(key(ALIAS, 7)))]);
    let snapshot = world.build().snapshot;
    let clients = [Client::ThisNode, Client::Outside];
    assert_eq!(clients.map(|c| outcome(&snapshot, ALIAS, 7, c)), ["2", "drop"]);
    assert_eq!(clients.map(|c| outcome(&snapshot, BALANCER, 80, c)), ["2", "drop"]);
    // Changed endpoints change at the alias too. The alias is removed with its frontend, or on its own.
    world.put(slice("a/s", "a/web", &[("", 8080)], &[("10.0.1.3", "there", 'r')]));
    let built = world.build();
    assert_eq!(outcome(&built.snapshot, ALIAS, 7, Client::ThisNode), "3");
    assert!(built.removed_backends.iter().any(|gone| gone.frontend == key(ALIAS, 7)));
    world
        .compiler
        .set_aliases(&world.cluster, [(key(BALANCER, 80), Some(key(ALIAS, 8)))]);
    let moved = world.build().snapshot;
    assert!(found(&moved, ALIAS, Proto::TCP, 7).is_none() && found(&moved, ALIAS, Proto::TCP, 8).is_some());
    world.compiler.set_aliases(&world.cluster, [(key(BALANCER, 80), None)]);
    assert!(found(&world.build().snapshot, ALIAS, Proto::TCP, 8).is_none());
    world
        .compiler
        .set_aliases(&world.cluster, [(key(BALANCER, 80), Some(key(ALIAS, 9)))]);
    world.delete(Kind::Service, "a", "web");
    assert!(found(&world.build().snapshot, ALIAS, Proto::TCP, 9).is_none());
}

#[test]
fn proxied_balancer_addresses_and_forbidden_external_addresses_are_not_served() {
    let mut world = World::new();
    world.put(here("a"));
    let mut proxied = balanced("a/web", "10.96.0.1", TrafficPolicy::Cluster);
    proxied.load_balancer_ingress[0].mode = IngressMode::Proxy;
    proxied.external_ips = vec![ip("198.51.100.1")];
    world.put(proxied);
    let snapshot = world.build().snapshot;
    assert!(found(&snapshot, BALANCER, Proto::TCP, 80).is_none());
    assert!(found(&snapshot, "198.51.100.1", Proto::TCP, 80).is_none());
    assert!(found(&snapshot, NODE, Proto::TCP, 30_080).is_some());
    assert!(found(&snapshot, NODE, Proto::UDP, 30_080).is_none());
    assert!(found(&snapshot, NODE, Proto::TCP, 80).is_none());
}

#[test]
fn addresses_of_a_family_without_a_cluster_address_are_not_served() {
    let mut world = World::new();
    let mut single = balanced("a/web", "10.96.0.1", TrafficPolicy::Cluster);
    single.external_ips = vec![ip("192.0.2.7"), ip("2001:db8::7")];
    for address in ["192.0.2.8", "2001:db8::8"] {
        let mode = IngressMode::Vip;
        single
            .load_balancer_ingress
            .push(LoadBalancerIngress { ip: ip(address), mode });
    }
    let mut config = NodeConfig::named("here");
    config.external_ips = true;
    world.compiler = Compiler::new(config);
    world.put(here("z")).put(single.clone());
    let served = |world: &mut World| {
        let snapshot = world.build().snapshot;
        ["192.0.2.7", "2001:db8::7", "192.0.2.8", "2001:db8::8"]
            .map(|address| found(&snapshot, address, Proto::TCP, 80).is_some())
    };
    assert_eq!(served(&mut world), [true, false, true, false]);
    single.cluster_ips = ClusterIps::Addresses(vec![ip("10.96.0.1"), ip("fd00:96::1")]);
    world.put(single);
    assert_eq!(served(&mut world), [true; 4]);
}

#[test]
fn a_udp_flow_leaves_an_endpoint_that_no_longer_serves_while_another_is_there() {
    let states = |first: char, second: char| {
        let ends = [("10.0.0.1", "here", first), ("10.0.0.2", "here", second)];
        slice("a/dns-1", "a/dns", &[("", 53)], &ends)
    };
    for (protocol, proto) in [(Protocol::Udp, Proto::UDP), (Protocol::Tcp, Proto::TCP)] {
        let mut world = World::new();
        let mut dns = service("a/dns", &["10.96.0.53"], &[("", 53)]);
        dns.ports[0].protocol = protocol;
        let keeps = |world: &mut World, mut slice: EndpointSlice| {
            slice.ports[0].protocol = protocol;
            world.put(slice);
            let built = world.build();
            let frontend = found(&built.snapshot, "10.96.0.53", proto, 53).unwrap();
            let lost = built
                .removed_backends
                .iter()
                .map(|r| r.backend.ip.to_string())
                .collect::<Vec<_>>();
            let backend = |address: &str| heddle_tables::Backend {
                ip: Ip::from(ip(address)),
                port: 53,
            };
            (frontend.keeps(&backend("10.0.0.1")), lost.join(" "))
        };
        let udp = protocol == Protocol::Udp;
        world.put(here("z")).put(dns);
        assert!(keeps(&mut world, states('r', 'r')).0);
        assert_eq!(
            keeps(&mut world, states('s', 'r')),
            (true, String::new()),
            "it serves to its end"
        );
        let lost = if udp { "10.0.0.1" } else { "" };
        assert_eq!(keeps(&mut world, states('n', 'r')), (!udp, lost.to_owned()));
        assert!(keeps(&mut world, states('n', 'n')).0, "nowhere else to go");
    }
}

#[test]
fn external_addresses_are_served_if_configured() {
    let mut config = NodeConfig::named("here");
    config.external_ips = true;
    let mut world = World {
        cluster: Cluster::new(),
        compiler: Compiler::new(config),
        ..World::new()
    };
    let mut external = service("a/web", &["10.96.0.1"], &[("", 80)]);
    external.external_ips = vec![ip("198.51.100.1")];
    let mut second = service("a/aaa", &["10.96.0.2"], &[("", 80), ("more", 81)]);
    second.ports[0].name = "web".into();
    second.external_ips = vec![ip("198.51.100.1"), ip("10.96.0.1")];
    world
        .put(external)
        .put(slice("a/s", "a/web", &[("", 8080)], &[("10.0.0.1", "x", 'r')]));
    let name = |world: &mut World, addr: &str, port| {
        let snapshot = world.build().snapshot;
        found(&snapshot, addr, Proto::TCP, port).map(|f| f.name.to_string())
    };
    assert_eq!(name(&mut world, "198.51.100.1", 80).as_deref(), Some("a/web"));
    // If two Services have the same address, the first by name gets it. A cluster address precedes other kinds.
    world.put(second.clone());
    assert_eq!(name(&mut world, "198.51.100.1", 80).as_deref(), Some("a/aaa:web"));
    assert_eq!(name(&mut world, "198.51.100.1", 81).as_deref(), Some("a/aaa:more"));
    assert_eq!(name(&mut world, "10.96.0.1", 80).as_deref(), Some("a/web"));
    world.delete(Kind::Service, "a", "aaa");
    assert_eq!(name(&mut world, "198.51.100.1", 80).as_deref(), Some("a/web"));
    assert_eq!(name(&mut world, "198.51.100.1", 81), None);
    world.put(second);
    world.delete(Kind::Service, "a", "web");
    assert_eq!(name(&mut world, "198.51.100.1", 80).as_deref(), Some("a/aaa:web"));
    assert_eq!(
        name(&mut world, "10.96.0.1", 80).as_deref(),
        Some("a/aaa:web"),
        "nobody else's any more"
    );
}

/// Makes a slice whose endpoints have hints: `address, state, zones, nodes`.
fn hinted(ends: &[(&str, char, &[&str], &[&str])]) -> EndpointSlice {
    let plain: Vec<_> = ends.iter().map(|(addr, state, ..)| (*addr, "there", *state)).collect();
    let mut slice = slice("a/s", "a/web", &[("", 80)], &plain);
    for (endpoint, (_, _, zones, nodes)) in slice.endpoints.iter_mut().zip(ends) {
        endpoint.hint_zones = zones.iter().map(|z| (*z).into()).collect();
        endpoint.hint_nodes = nodes.iter().map(|n| (*n).into()).collect();
    }
    slice
}

#[test]
fn topology_hints_apply_if_all_ready_endpoints_have_them_and_one_matches() {
    let mut world = World::new();
    world.put(here("a")).put(service("a/web", &["10.96.0.1"], &[("", 80)]));
    let (one, two, three) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
    type Hinted = &'static [(&'static str, char, &'static [&'static str], &'static [&'static str])];
    let cases: [(Hinted, &str); 8] = [
        (&[("10.0.0.1", 'r', &["a"], &[]), ("10.0.0.2", 'r', &["b"], &[])], one),
        (
            &[("10.0.0.1", 'r', &["a", "b"], &[]), ("10.0.0.2", 'r', &["b"], &[])],
            one,
        ),
        (&[("10.0.0.1", 'r', &["a"], &[]), ("10.0.0.2", 'r', &[], &[])], "1 2"),
        (&[("10.0.0.1", 'r', &["b"], &[]), ("10.0.0.2", 'r', &["c"], &[])], "1 2"),
        // Hints for nodes come before hints for zones.
        (
            &[
                ("10.0.0.1", 'r', &["a"], &["there"]),
                ("10.0.0.2", 'r', &["b"], &["here"]),
            ],
            two,
        ),
        (
            &[
                ("10.0.0.1", 'r', &["a"], &["there"]),
                ("10.0.0.2", 'r', &["b"], &["there"]),
            ],
            one,
        ),
        // The hints of endpoints that are not ready do not count. Without ready endpoints, no hint counts.
        (
            &[
                ("10.0.0.1", 'n', &[], &[]),
                ("10.0.0.3", 'r', &["a"], &[]),
                ("10.0.0.2", 'r', &["b"], &[]),
            ],
            three,
        ),
        (&[("10.0.0.1", 's', &["a"], &[]), ("10.0.0.2", 's', &["b"], &[])], "1 2"),
    ];
    for (ends, want) in cases {
        world.put(hinted(ends));
        let want = want.rsplit('.').next().unwrap();
        assert_eq!(
            outcome(&world.build().snapshot, "10.96.0.1", 80, Client::Pod),
            want,
            "{ends:?}"
        );
    }
    // The node moves to another zone.
    world.put(hinted(&[
        ("10.0.0.1", 'r', &["a"], &[]),
        ("10.0.0.2", 'r', &["b"], &[]),
    ]));
    world.put(here("b"));
    assert_eq!(outcome(&world.build().snapshot, "10.96.0.1", 80, Client::Pod), "2");
    world.put(node("here", NODE, "10.0.0.0/24"));
    assert_eq!(
        outcome(&world.build().snapshot, "10.96.0.1", 80, Client::Pod),
        "1 2",
        "no zone"
    );
}

/// As in kube-proxy, the writer of the slices turns `trafficDistribution` into hints and `publishNotReadyAddresses` into
/// readiness; the Service's own fields change nothing.
#[test]
fn backends_depend_on_slices_and_not_on_fields_of_the_service() {
    let mut world = World::new();
    world.put(here("a"));
    let mut web = service("a/web", &["10.96.0.1"], &[("", 80)]);
    web.publish_not_ready = true;
    let ends = [
        ("10.0.0.1", "here", 'r'),
        ("10.0.1.2", "there", 'r'),
        ("10.0.1.3", "there", 'n'),
    ];
    for preference in [TrafficDistribution::PreferSameZone, TrafficDistribution::PreferSameNode] {
        web.traffic_distribution = Some(preference);
        world.put(web.clone()).put(slice("a/s", "a/web", &[("", 80)], &ends));
        let snapshot = world.build().snapshot;
        assert_eq!(
            outcome(&snapshot, "10.96.0.1", 80, Client::Pod),
            "1 2",
            "{preference:?}"
        );
    }
}

#[test]
fn an_endpoint_in_several_slices_is_one_backend_with_its_best_state() {
    let mut world = World::new();
    world.put(service("a/web", &["10.96.0.1"], &[("", 80)]));
    let of = |name: &str, state| slice(name, "a/web", &[("", 8080)], &[("10.0.0.1", "x", state)]);
    for (states, want) in [
        (['n', 'r'], "10.0.0.1:8080"),
        (['s', 'n'], "10.0.0.1:8080"),
        (['n', 'n'], "reject"),
    ] {
        world.put(of("a/s1", states[0])).put(of("a/s2", states[1]));
        assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), want, "{states:?}");
    }
    let mut foreign = of("a/s1", 'r');
    foreign.proxy_name = Some("other".into());
    let mut headless = of("a/s2", 'r');
    headless.headless = true;
    world.put(foreign).put(headless);
    assert_eq!(
        lookup(&world.build().snapshot, "10.96.0.1", 80),
        "reject",
        "slices of others"
    );
}

#[test]
fn endpoints_that_are_not_chosen_any_more_are_not_reported_as_lost() {
    let mut world = World::new();
    world.put(service("a/web", &["10.96.0.1"], &[("", 80)]));
    let put = |world: &mut World, ends: &[(&str, &str, char)]| {
        world.put(slice("a/s", "a/web", &[("", 80)], ends));
        let gone = world.build().removed_backends;
        gone.iter().map(|r| r.backend.ip.to_string()).collect::<Vec<_>>()
    };
    let all = [("10.0.0.1", "x", 'r'), ("10.0.0.2", "x", 'r'), ("10.0.0.3", "x", 'r')];
    put(&mut world, &all);
    let rest = [("10.0.0.1", "x", 's'), ("10.0.0.2", "x", 'n'), ("10.0.0.3", "x", 'r')];
    assert_eq!(put(&mut world, &rest), [""; 0]);
    assert_eq!(lookup(&world.build().snapshot, "10.96.0.1", 80), "10.0.0.3:80");
    assert_eq!(put(&mut world, &rest[2..]), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(put(&mut world, &[]), ["10.0.0.3"], "scaled to zero");
}

#[test]
fn a_new_frontend_is_reported_once() {
    let mut world = World::new();
    world.put(here("a"));
    assert!(!world.build().new_frontends);
    world.put(balanced("a/web", "10.96.0.1", TrafficPolicy::Cluster));
    assert!(world.build().new_frontends);
    world.put(slice("a/s", "a/web", &[("", 80)], &[("10.0.0.1", "x", 'r')]));
    assert!(!world.build().new_frontends);
}

#[test]
fn affinity_chance_ranges_and_protocols_reach_the_tables() {
    let mut world = World::new();
    world.put(here("a"));
    let mut web = balanced("a/web", "10.96.0.1", TrafficPolicy::Cluster);
    web.session_affinity = SessionAffinity::ClientIp { timeout_seconds: 600 };
    web.load_balancing = LoadBalancing::Random;
    web.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    for port in &mut web.ports {
        port.protocol = Protocol::Sctp;
    }
    let mut ends = slice("a/s", "a/web", &[("", 80)], &[("10.0.0.1", "x", 'r')]);
    for port in &mut ends.ports {
        port.protocol = Protocol::Sctp;
    }
    world.put(web.clone()).put(ends);
    let snapshot = world.build().snapshot;
    let at: BTreeMap<&str, Arc<Frontend>> = [("10.96.0.1", 80), (NODE, 30_080), (BALANCER, 80)]
        .into_iter()
        .map(|(addr, port)| (addr, found(&snapshot, addr, Proto::SCTP, port).unwrap()))
        .collect();
    let affinities: Vec<_> = at.values().map(|f| f.affinity.unwrap()).collect();
    assert!(
        affinities.iter().all(|a| *a == affinities[0] && a.seconds == 600),
        "one for all frontends"
    );
    assert!(
        at.values()
            .all(|f| f.balancing == Balancing::Random && f.backends.list().len() == 1)
    );
    let admits = |addr: &str, from: &str| at[addr].admits(Ip::from(ip(from)));
    assert!(admits(BALANCER, "198.51.100.9") && !admits(BALANCER, "198.51.101.9"));
    assert!(!admits(BALANCER, BALANCER), "this node is not in the ranges");
    assert!(admits(NODE, "198.51.101.9"), "ranges are the load balancer's alone");
    web.source_ranges.push("192.0.2.0/24".parse().unwrap());
    world.put(web);
    let balancer = found(&world.build().snapshot, BALANCER, Proto::SCTP, 80).unwrap();
    assert!(
        balancer.admits(Ip::from(ip(BALANCER))),
        "this node may come under the address that it asks for"
    );
}
