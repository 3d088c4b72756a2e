//! A router between the nodes, behind which packets must be smaller than the uplinks allow. Nobody but the router knows it.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::traffic::{self, ServerBehavior, TcpServer};
use heddle_lab::{LabError, manifests};
use serde_json::json;

use crate::common::wait_until;
use crate::mtu::{ECHO, Stream, ping_whole};
use crate::scene::{Cluster, ip, node_object_with, seen};

/// The MTU of the router's links to the nodes, as it holds for what it forwards. The uplinks have 1500.
const BEHIND: u16 = 1400;
const NODE_PORT: u16 = 30_777;

/// Starts two nodes that reach each other by a router, over the underlay's IPv4 or IPv6, with a pod each.
fn cluster(over_v6: bool) -> Result<Cluster, LabError> {
    let mut cluster = Cluster::prepare(2, "")?;
    let family = usize::from(over_v6);
    let router = cluster.lab.outside();
    for key in ["net/ipv4/conf/all/send_redirects", "net/ipv4/conf/br0/send_redirects"] {
        router.sysctl(key, "0")?;
    }
    let addresses: Vec<[IpAddr; 2]> = cluster.nodes.iter().map(heddle_lab::Node::internal_ips).collect();
    for (node, other) in [(0, 1), (1, 0)] {
        let ns = cluster.nodes[node].ns();
        ns.sysctl("net/ipv6/conf/eth0/accept_redirects", "0")?;
        for (to, by) in addresses[other].into_iter().zip(cluster.lab.outside_ips()) {
            ip(ns, &format!("route add {to} via {by}"))?;
            // A locked MTU is what the kernel forwards by, in place of the link's.
            ip(router, &format!("route add {to} dev br0 mtu lock {BEHIND}"))?;
        }
    }
    if over_v6 {
        for (number, addresses) in (1..).zip(&addresses) {
            cluster.apply(&node_object_with(number, &addresses[family..]))?;
        }
    }
    for node in &mut cluster.nodes {
        node.start_agent()?;
    }
    cluster.wait_for_paths()?;
    for (node, name) in [(0, "a"), (1, "b")] {
        cluster.add_pod(node, name, name)?;
    }
    Ok(cluster)
}

/// Returns the largest packet in a tunnel.
fn overlay(outer: u16, over_v6: bool) -> u16 {
    outer - if over_v6 { 70 } else { 50 }
}

#[test]
fn pods_learn_from_a_router_between_the_nodes_what_is_too_large() -> Result<(), LabError> {
    for over_v6 in [false, true] {
        let cluster = cluster(over_v6)?;
        let mtu = overlay(BEHIND, over_v6);
        for (node, other) in [(0, "node-2"), (1, "node-1")] {
            let known = &seen(&cluster.nodes[node], other)?["mtu"];
            assert_eq!(
                known,
                &json!(overlay(1500, over_v6)),
                "heddle knows the uplink's MTU only"
            );
        }
        let (a, b) = (&cluster.pods[0], &cluster.pods[1]);
        for (v6, message) in [
            (false, format!("(mtu = {mtu})")),
            (true, format!("Packet too big: mtu={mtu}")),
        ] {
            // The error names the pod that was asked.
            let to = SocketAddr::new(b.ip(v6)?, 7000);
            let out = ping_whole(a.ns(), to, mtu + 1)?;
            assert!(
                out.contains(&message) && out.contains(&format!("From {}", to.ip())),
                "{out}"
            );
            let out = ping_whole(a.ns(), to, mtu)?;
            assert!(out.contains("1 received"), "{out}");
            // TCP finds the size in the middle of a transfer, in the direction that has not learned it.
            let to = SocketAddr::new(a.ip(v6)?, 7000);
            traffic::bulk(b.ns(), a.ns(), to, to.port(), 8 << 20)?;
            let to = SocketAddr::new(b.ip(v6)?, 7000);
            traffic::bulk(a.ns(), b.ns(), to, to.port(), 8 << 20)?;
        }
    }
    Ok(())
}

#[test]
fn a_client_outside_learns_it_from_the_node_that_it_asks() -> Result<(), LabError> {
    let cluster = cluster(false)?;
    let b = &cluster.pods[1];
    let _echo = TcpServer::start(b.ns(), ECHO, ServerBehavior::Echo)?;
    let addresses = ["10.96.0.77".parse().unwrap(), "fd00:10:96::77".parse().unwrap()];
    let mut service = manifests::service("shop", "echo", &addresses, 7, ECHO);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    cluster.apply(&service)?;
    let client = cluster.lab.machine("client", 9)?;
    for v6 in [false, true] {
        let mut slice = manifests::endpoint_slice("shop", "echo", v6, ECHO, &[(b.ip(v6)?, "b")]);
        slice["endpoints"][0]["nodeName"] = json!("node-2");
        cluster.apply(&slice)?;
        let at = SocketAddr::new(cluster.nodes[0].internal_ips()[usize::from(v6)], NODE_PORT);
        wait_until("the node port is served", || Ok(Stream::start(&client, at).is_ok()))?;
        Stream::start(&client, at)?.exchange()?;
        let learned = ip(&client, &format!("route get {}", at.ip()))?;
        let mtu = format!("mtu {}", overlay(BEHIND, false));
        assert!(learned.contains(&mtu), "{learned}");
    }
    Ok(())
}
