//! Services with four endpoints each.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use criterion::Criterion;
use heddle_model::{
    AddressType, ClusterIps, Endpoint, EndpointPort, EndpointSlice, Event, LoadBalancing, Object, ObjectKey, Protocol,
    Service, ServicePort, ServiceType, SessionAffinity, TargetPort, TrafficPolicy,
};

use heddle_wire::Ip;

use crate::cluster::{World, port};
use crate::cold::{self, Case};
use crate::report::{Report, cpu_time, time};

pub const SIZES: [(&str, u32); 3] = [("100", 100), ("3k", 3_000), ("30k", 30_000)];
const ENDPOINTS: u32 = 4;

fn key(id: u32, name: &str) -> ObjectKey {
    ObjectKey::new(format!("ns{}", id / 30), name)
}

/// Returns the address of a Service.
pub const fn address(id: u32) -> Ip {
    Ip::from_v4((0x0a60_0000 + id).to_be_bytes())
}

fn service(id: u32) -> Service {
    Service {
        key: key(id, &format!("service-{id}")),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps::Addresses(vec![address(id).to_std()]),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            target_port: TargetPort::Name("http".into()),
            node_port: None,
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

/// Returns the slice of a Service. The address of its first endpoint depends on `version`.
pub fn slice(id: u32, version: u32) -> EndpointSlice {
    let endpoint = |n: u32| {
        let address = IpAddr::from(Ipv4Addr::from(0x0a80_0000 + id * ENDPOINTS + n));
        let other = IpAddr::from(Ipv4Addr::from(0x0b00_0000 + version));
        Endpoint {
            address: if n == 0 && version > 0 { other } else { address },
            ready: true,
            serving: true,
            terminating: false,
            node: Some(format!("node-{:04}", (id + n) % 908).into()),
            zone: Some("zone-a".into()),
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
        }
    };
    EndpointSlice {
        key: key(id, &format!("service-{id}-abcde")),
        service: Some(key(id, &format!("service-{id}"))),
        proxy_name: None,
        headless: false,
        address_type: AddressType::V4,
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Some(port(8080)),
        }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    }
}

fn objects(count: u32) -> impl Iterator<Item = Object> {
    let services = (0..count).map(|id| service(id).into());
    services.chain((0..count).map(|id| slice(id, 0).into()))
}

pub fn world(count: u32) -> World {
    let mut world = World::new();
    let changes = world.apply(objects(count));
    world.record(&changes);
    world.compiler.rebuild();
    world
}

pub fn run(criterion: &mut Criterion, report: &mut Report) {
    for (name, count) in SIZES {
        let case = Case {
            name: "services/cold",
            size: name,
            whose: "Services, ",
        };
        cold::run(criterion, report, &case, || objects(count).collect(), |_| {});
        let mut made = None;
        let mut version = 0;
        time(criterion, report, ("services/one endpoint changed", name), || {
            let world = made.get_or_insert_with(|| world(count));
            version += 1;
            let event = Event::Upsert {
                origin: "api".into(),
                object: slice(count / 2, version).into(),
            };
            let began = cpu_time();
            let changes = world.cluster.apply(event);
            world.record(&changes);
            let built = world.compiler.rebuild();
            let took = cpu_time() - began;
            assert_eq!(built.pages_copied, 2, "a page of frontends, and their root");
            took
        });
        let memory = RefCell::default();
        criterion.bench_function(&format!("services/memory/{name}"), |b| {
            let mut kept = None;
            let all = allocation_counter::measure(|| kept = Some(world(count)));
            let mut tables = None;
            let alone = allocation_counter::measure(|| tables = Some(world(count).compiler.rebuild().snapshot));
            *memory.borrow_mut() = Some((alone.bytes_current, all.bytes_current));
            b.iter(|| tables.as_ref().map(|tables| tables.version()));
        });
        if let Some((tables, all)) = memory.into_inner() {
            let mb = |bytes: i64| format!("{:.1} MB", bytes as f64 / 1e6);
            report.add("services/memory of tables", mb(tables));
            report.add("services/memory of model, compiler and tables", mb(all));
        }
    }
}
