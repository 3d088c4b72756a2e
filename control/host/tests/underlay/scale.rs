//! Thousands of nodes on one segment.

use std::net::IpAddr;
use std::time::Instant;

use crate::network::{Neighbors, Network, Node, PEER_MAC, in_namespace, ip};

/// The size of the largest supported cluster (Kubernetes: "Considerations for large clusters").
const NODES: u16 = 5000;

#[test]
fn five_thousand_nodes_on_one_segment() {
    in_namespace(|| {
        let network = Network::new();
        // The peer answers for all of them.
        network.peer.ip(&["route add local 10.0.64.0/18 dev lo"]);
        let nodes: Vec<String> = (0..NODES)
            .map(|n| IpAddr::from([10, 0, 64 + (n >> 8) as u8, n as u8]).to_string())
            .collect();
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        let node = Node::start();
        node.wait("the uplink", |underlay| underlay.uplink.is_some());
        let began = Instant::now();
        node.set_nodes(&nodes);
        node.wait("all paths", |underlay| underlay.paths.len() == nodes.len());
        println!("{NODES} paths after {:?}", began.elapsed());
        node.wait("all neighbors", |underlay| {
            let resolved = underlay
                .paths
                .values()
                .flatten()
                .filter(|path| path.mac == Some(PEER_MAC));
            resolved.count() == nodes.len()
        });
        println!("{NODES} neighbors after {:?}", began.elapsed());
        assert_eq!(Neighbors::heddles(&Neighbors::open().table()).len(), nodes.len());
        assert!(node.handle.status().underlay_problems.is_empty());
        // One change is followed at once.
        let began = Instant::now();
        ip("route add 10.0.64.1/32 via 10.0.0.254");
        node.wait_path("10.0.64.1", |path| path.is_ok_and(|path| path.gateway.is_some()));
        println!("a route that changes is reported after {:?}", began.elapsed());
        let began = Instant::now();
        ip("neigh replace 10.0.64.2 lladdr 02:00:00:00:00:55 nud permanent dev up0");
        node.wait_path("10.0.64.2", |path| {
            path.is_ok_and(|path| path.mac.is_some_and(|mac| mac != PEER_MAC))
        });
        println!("a neighbor that changes is reported after {:?}", began.elapsed());
    });
}
