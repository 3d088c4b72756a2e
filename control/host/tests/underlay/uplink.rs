//! The uplink: its own changes, and the changes of its neighbors.

use heddle_host::{NoPath, UplinkFacts};
use heddle_linux::sysctl;
use heddle_wire::MacAddr;

use crate::network::{NODE_MAC, Network, Node, PEER_MAC, address, in_namespace, ip, verify_often};

const NODES: &[&str] = &["10.0.0.2", "fd00::2"];
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);

/// Waits until the uplink satisfies the condition.
fn wait_uplink(node: &Node, what: &str, is_it: impl Fn(&UplinkFacts) -> bool) {
    node.wait(what, |underlay| underlay.uplink.as_ref().is_some_and(&is_it));
}

/// Waits until both of the peer's addresses have a MAC.
fn wait_resolved(node: &Node) {
    node.wait("the peer", |underlay| {
        NODES.iter().all(|to| {
            let path = underlay.paths.get(&address(to)).copied();
            path.is_some_and(|path| path.is_ok_and(|path| path.mac == Some(PEER_MAC)))
        })
    });
}

#[test]
fn its_mtu_mac_and_addresses_are_followed() {
    in_namespace(|| {
        let _network = Network::new();
        let node = Node::with_nodes(NODES);
        wait_resolved(&node);
        ip("link set up0 mtu 1300");
        wait_uplink(&node, "the MTU", |uplink| uplink.mtu == 1300);
        ip(&format!("link set up0 address {OTHER_MAC}"));
        wait_uplink(&node, "the MAC", |uplink| uplink.mac == Some(OTHER_MAC));
        ip(&format!("link set up0 address {NODE_MAC}"));
        wait_uplink(&node, "the old MAC", |uplink| uplink.mac == Some(NODE_MAC));
        for (added, family) in [("10.0.0.7/16", "-4"), ("fd00::7/64", "-6")] {
            let prefix = added.parse().unwrap();
            ip(&format!("{family} address add {added} dev up0"));
            wait_uplink(&node, added, |uplink| uplink.addresses.contains(&prefix));
        }
        // The first address goes: the kernel chooses another source, and the uplink stays.
        ip("address add 10.0.0.8/32 dev up0");
        ip("address del 10.0.0.1/16 dev up0");
        ip("address add 10.0.0.9/16 dev up0");
        node.wait("another source", |underlay| {
            let path = underlay.paths[&address("10.0.0.2")];
            underlay.uplink.is_some() && path.is_ok_and(|path| path.source != address("10.0.0.1"))
        });
        ip("link del up0");
        node.wait("no uplink", |underlay| {
            underlay.uplink.is_none()
                && underlay.neighbors.is_empty()
                && underlay.paths.values().all(|path| *path == Err(NoPath::NoRoute))
        });
    });
}

#[test]
fn an_uplink_that_flaps_gets_its_paths_back() {
    in_namespace(|| {
        let network = Network::new();
        let node = Node::with_nodes(NODES);
        wait_resolved(&node);
        for _ in 0..2 {
            ip("link set up0 down");
            node.wait("the uplink is down", |underlay| {
                !underlay.uplink.as_ref().unwrap().up
                    && underlay.neighbors.is_empty()
                    && underlay.paths[&address("10.0.0.2")] == Err(NoPath::NoRoute)
            });
            ip("link set up0 up");
            // The kernel has removed the IPv6 address with the link.
            ip("address add fd00::1/64 dev up0 nodad");
            wait_resolved(&node);
            // The carrier: the other end goes down.
            network.router.ip(&["link set port1 down"]);
            node.wait("the carrier is lost", |underlay| {
                !underlay.uplink.as_ref().unwrap().up && underlay.neighbors.is_empty()
            });
            network.router.ip(&["link set port1 up"]);
            wait_resolved(&node);
        }
    });
}

#[test]
fn a_neighbor_that_fails_moves_and_comes_back_is_followed() {
    in_namespace(|| {
        let network = Network::new();
        verify_often();
        let node = Node::with_nodes(NODES);
        wait_resolved(&node);
        network.peer.ip(&["link set eth0 down"]);
        let failed = node.wait("both fail", |underlay| {
            underlay
                .paths
                .values()
                .all(|path| path.is_ok_and(|path| path.mac.is_none()))
        });
        let reason = failed.problem_of(address("10.0.0.2")).unwrap();
        assert!(reason.contains("10.0.0.2") && reason.contains("up0"), "{reason}");
        assert!(!failed.neighbors.contains_key(&address("10.0.0.2")));
        // It comes back with another MAC.
        network.peer.ip(&[
            &format!("link set eth0 address {OTHER_MAC}"),
            "link set eth0 up",
            "address add fd00::2/64 dev eth0 nodad",
        ]);
        node.wait("both are back", |underlay| {
            underlay
                .paths
                .values()
                .all(|path| path.is_ok_and(|path| path.mac == Some(OTHER_MAC)))
        });
        // It moves without a break, and its next request tells the node.
        sysctl::write("net/ipv4/neigh/up0/locktime", "0").unwrap();
        network.peer.run(|| {
            sysctl::write("net/ipv4/conf/eth0/arp_notify", "1").unwrap();
            sysctl::write("net/ipv6/conf/eth0/ndisc_notify", "1").unwrap();
        });
        network.peer.ip(&[&format!("link set eth0 address {PEER_MAC}")]);
        wait_resolved(&node);
    });
}
