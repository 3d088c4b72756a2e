//! Services as the node's own processes reach them, over TCP and UDP: node ports, load balancer addresses and external
//! addresses, whether or not the node itself has the address. Also the health check port that load balancers ask.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use common::{BOUND, SILENCE, binaries, wait_until};
use heddle_lab::shop::{Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::udp::UdpServer;
use heddle_lab::{Lab, LabError, NodePlan, manifests};
use serde_json::{Value, json};

const NODE_PORT: u16 = 30_080;
const UDP_NODE_PORT: u16 = 30_053;
const UDP_TARGET: u16 = 5353;
const HEALTH_PORT: u16 = 32_000;
const BALANCERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 5)),
];

/// Returns a Service of type LoadBalancer for the shop's web pods, with cluster addresses of its own.
fn balanced(policy: &str) -> Value {
    let mut service = manifests::service("shop", "front", &cluster_ips(), WEB_PORT, WEB_TARGET);
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalTrafficPolicy"] = json!(policy);
    service["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    service["status"] = json!({"loadBalancer": {"ingress": BALANCERS.map(|ip| json!({"ip": ip, "ipMode": "VIP"}))}});
    service
}

/// Returns the addresses after the ones of Service shop/web.
fn cluster_ips() -> [IpAddr; 2] {
    let [a, b] = Shop::SERVICE_IPS;
    let next = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + 1).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + 1).into()),
    };
    [next(a), next(b)]
}

#[test]
fn processes_of_the_node_reach_node_ports_and_load_balancers() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let webs = ["web-1", "web-2"];
    let mut servers = Vec::new();
    for name in webs {
        let pod = &shop.member(name)?.pod;
        servers.push(TcpServer::start(
            pod.ns(),
            WEB_TARGET,
            ServerBehavior::Greet(name.to_owned()),
        )?);
    }
    // With policy Local too, the node's own connections go to all endpoints, as with kube-proxy.
    for policy in ["Cluster", "Local"] {
        shop.node.apply(&balanced(policy))?;
        for v6 in [false, true] {
            let mut endpoints = Vec::new();
            for name in webs {
                endpoints.push((shop.member(name)?.attached.ip(v6)?, name));
            }
            shop.node
                .apply(&manifests::endpoint_slice("shop", "front", v6, WEB_TARGET, &endpoints))?;
        }
        for v6 in [false, true] {
            let own = shop.node.internal_ips()[usize::from(v6)];
            let balancer = BALANCERS[usize::from(v6)];
            let pod = shop.member("client")?.pod.ns();
            for to in [SocketAddr::new(own, NODE_PORT), SocketAddr::new(balancer, WEB_PORT)] {
                wait_until("the frontend is there", || {
                    Ok(traffic::tcp_request(shop.node.ns(), to, "", BOUND)?.is_answered())
                })?;
                let mut names = BTreeSet::new();
                for _ in 0..32 {
                    names.insert(traffic::tcp_request(shop.node.ns(), to, "", BOUND)?);
                }
                let both = BTreeSet::from(webs.map(|name| ProbeOutcome::Answered(name.to_owned())));
                assert_eq!(names, both, "{policy}: the node to {to}");
                assert!(
                    traffic::tcp_request(pod, to, "", BOUND)?.is_answered(),
                    "{policy}: a pod to {to}"
                );
            }
        }
    }
    Ok(())
}

/// A load balancer that announces addresses from the node (MetalLB, a VIP of keepalived) or an operator puts them on an interface.
#[test]
fn processes_of_the_node_reach_frontends_at_the_nodes_own_addresses() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let config = lab.dir().join("external.yaml");
    std::fs::write(&config, "externalIPs: true\n").map_err(LabError::io("writing external.yaml"))?;
    let mut plan = NodePlan::new("node", 1);
    plan.flags = vec!["--config".to_owned(), config.display().to_string()];
    let shop = Shop::start_in(lab, plan)?;
    let external = [
        Ipv4Addr::new(203, 0, 113, 9).into(),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 9)),
    ];
    for held in BALANCERS.into_iter().chain(external) {
        let length = if held.is_ipv4() { 32 } else { 128 };
        shop.node
            .ns()
            .run("ip", &["address", "add", &format!("{held}/{length}"), "dev", "lo"])?;
    }
    let webs = ["web-1", "web-2"];
    let (mut servers, mut echoes) = (Vec::new(), Vec::new());
    for name in webs {
        let ns = shop.member(name)?.pod.ns();
        servers.push(TcpServer::start(
            ns,
            WEB_TARGET,
            ServerBehavior::Greet(name.to_owned()),
        )?);
        echoes.push(UdpServer::echo(ns, UDP_TARGET)?);
    }
    let publish = |policy: &str, ranges: &[&str]| -> Result<(), LabError> {
        let mut service = balanced(policy);
        service["spec"]["externalIPs"] = json!(external);
        service["spec"]["loadBalancerSourceRanges"] = json!(ranges);
        service["spec"]["ports"] = json!([
            {"name": "main", "protocol": "TCP", "port": WEB_PORT, "targetPort": WEB_TARGET, "nodePort": NODE_PORT},
            {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": UDP_TARGET, "nodePort": UDP_NODE_PORT},
        ]);
        shop.node.apply(&service)
    };
    for v6 in [false, true] {
        let mut endpoints = Vec::new();
        for name in webs {
            endpoints.push((shop.member(name)?.attached.ip(v6)?, name));
        }
        let mut slice = manifests::endpoint_slice("shop", "front", v6, WEB_TARGET, &endpoints);
        slice["ports"] = json!([
            {"name": "main", "protocol": "TCP", "port": WEB_TARGET},
            {"name": "dns", "protocol": "UDP", "port": UDP_TARGET},
        ]);
        shop.node.apply(&slice)?;
    }
    let ns = shop.node.ns();
    // With policy Local too, the node's own connections go to all endpoints.
    for policy in ["Cluster", "Local"] {
        publish(policy, &[])?;
        for ip in BALANCERS.into_iter().chain(external) {
            let to = SocketAddr::new(ip, WEB_PORT);
            wait_until("the frontend is there", || {
                Ok(traffic::tcp_request(ns, to, "", BOUND)?.is_answered())
            })?;
            let mut names = BTreeSet::new();
            for _ in 0..32 {
                names.insert(traffic::tcp_request(ns, to, "", BOUND)?);
            }
            let both = BTreeSet::from(webs.map(|name| ProbeOutcome::Answered(name.to_owned())));
            assert_eq!(names, both, "{policy}: the node to {to}");
            let dns = SocketAddr::new(ip, 53);
            assert!(
                traffic::udp_request(ns, dns, b"hello", BOUND)?.is_answered(),
                "{policy}: {dns}"
            );
            assert!(traffic::tcp_request(shop.member("client")?.pod.ns(), to, "", BOUND)?.is_answered());
        }
    }
    // Connections to other ports of such an address reach the node's own listeners.
    let _own = TcpServer::start(ns, 8888, ServerBehavior::Greet("the node".to_owned()))?;
    let own = traffic::tcp_request(ns, SocketAddr::new(BALANCERS[0], 8888), "", BOUND)?;
    assert_eq!(own, ProbeOutcome::Answered("the node".to_owned()));
    // The source ranges of a load balancer restrict the node too, but only at the load balancer's address.
    publish("Cluster", &["198.51.100.0/24"])?;
    let to = SocketAddr::new(BALANCERS[0], WEB_PORT);
    wait_until("the node is outside of the source ranges", || {
        Ok(traffic::tcp_request(ns, to, "", SILENCE)? == ProbeOutcome::NoAnswer)
    })?;
    assert!(traffic::tcp_request(ns, SocketAddr::new(external[0], WEB_PORT), "", BOUND)?.is_answered());
    publish("Cluster", &["198.51.100.0/24", "192.0.2.0/24"])?;
    wait_until("a source range contains the node", || {
        Ok(traffic::tcp_request(ns, to, "", SILENCE)?.is_answered())
    })?;
    // Without the Service, the address is an address of the node without a listener.
    shop.node.delete(&balanced("Cluster"))?;
    wait_until("the node refuses", || {
        Ok(traffic::tcp_request(ns, to, "", SILENCE)? == ProbeOutcome::Refused)
    })
}

#[test]
fn udp_node_ports_answer_the_node() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let web = shop.member("web-1")?;
    let _server = UdpServer::echo(web.pod.ns(), UDP_TARGET)?;
    let mut service = manifests::service("shop", "dns", &cluster_ips(), 53, UDP_TARGET);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"] =
        json!([{"name": "dns", "protocol": "UDP", "port": 53, "targetPort": UDP_TARGET, "nodePort": UDP_NODE_PORT}]);
    shop.node.apply(&service)?;
    for v6 in [false, true] {
        let endpoints = [(web.attached.ip(v6)?, "web-1")];
        let mut slice = manifests::endpoint_slice("shop", "dns", v6, UDP_TARGET, &endpoints);
        slice["ports"] = json!([{"name": "dns", "protocol": "UDP", "port": UDP_TARGET}]);
        shop.node.apply(&slice)?;
    }
    for v6 in [false, true] {
        let to = SocketAddr::new(shop.node.internal_ips()[usize::from(v6)], UDP_NODE_PORT);
        wait_until("the node port answers", || {
            Ok(traffic::udp_request(shop.node.ns(), to, b"hello", BOUND)?.is_answered())
        })?;
    }
    Ok(())
}

#[test]
fn the_health_check_port_reports_local_endpoints() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let mut service = balanced("Local");
    service["spec"]["healthCheckNodePort"] = json!(HEALTH_PORT);
    shop.node.apply(&service)?;
    let to = SocketAddr::new(shop.node.internal_ips()[0], HEALTH_PORT);
    // A load balancer sends its request from outside.
    let status = || -> Result<String, LabError> {
        shop.lab.outside().enter(|| {
            let ask = || -> std::io::Result<String> {
                let mut stream = TcpStream::connect_timeout(&to, BOUND)?;
                stream.set_read_timeout(Some(BOUND))?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer.lines().next().unwrap_or_default().to_owned())
            };
            Ok(ask().unwrap_or_default())
        })
    };
    wait_until("without endpoints it is unavailable", || {
        Ok(status()? == "HTTP/1.1 503 Service Unavailable")
    })?;
    let endpoints = [(shop.member("web-1")?.attached.ip(false)?, "web-1")];
    let mut slice = manifests::endpoint_slice("shop", "front", false, WEB_TARGET, &endpoints);
    slice["endpoints"][0]["nodeName"] = json!(shop.node.name());
    shop.node.apply(&slice)?;
    wait_until("with one it is available", || Ok(status()? == "HTTP/1.1 200 OK"))?;
    shop.node.delete(&service)?;
    wait_until("without the Service the port is closed", || Ok(status()?.is_empty()))
}
