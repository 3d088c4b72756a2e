//! Paths: routes of every kind, and their changes.

use heddle_host::NoPath;
use heddle_linux::sysctl;

use crate::network::{
    NODE_MAC, Neighbors, Network, Node, PEER_MAC, ROUTER_MAC, address, addresses, in_namespace, ip, verify_often,
};

#[test]
fn paths_of_both_families_are_found_and_resolved() {
    in_namespace(|| {
        let _network = Network::new();
        ip("route add 10.1.0.0/16 via 10.0.0.254 mtu 1400");
        ip("-6 route add fd01::/64 via fe80::fe dev up0");
        ip("route add 10.2.0.0/16 via inet6 fe80::fe dev up0");
        ip("route add blackhole 10.3.0.0/16");
        // In the place of a tunnel, which has no neighbors either.
        ip("link add tun0 type veth peer name tun1");
        ip("link set tun0 arp off up");
        ip("route add 10.4.0.0/16 dev tun0");
        let node = Node::start();
        let first = node.wait("the first look", |_| true);
        assert!(first.paths.is_empty());
        node.set_nodes(&[
            "10.0.0.2",
            "fd00::2",
            "10.1.0.9",
            "fd01::9",
            "10.2.0.9",
            "10.3.0.9",
            "10.4.0.9",
            "10.0.0.1",
            "192.0.2.9",
            "2001:db8::9",
        ]);
        let found = node.wait("every next hop", |underlay| {
            let resolved = underlay.paths.values().flatten().filter(|path| path.mac.is_some());
            resolved.count() == 5
        });
        let uplink = found.uplink.as_ref().unwrap();
        assert_eq!(
            (uplink.name.as_str(), uplink.mac, uplink.mtu, uplink.up),
            ("up0", Some(NODE_MAC), 1500, true)
        );
        for text in ["10.0.0.1/16", "fd00::1/64"] {
            assert!(uplink.addresses.contains(&text.parse().unwrap()), "{uplink:?}");
        }
        for (to, gateway, source, mtu, mac) in [
            ("10.0.0.2", None, "10.0.0.1", None, PEER_MAC),
            ("fd00::2", None, "fd00::1", None, PEER_MAC),
            ("10.1.0.9", Some("10.0.0.254"), "10.0.0.1", Some(1400), ROUTER_MAC),
            ("fd01::9", Some("fe80::fe"), "fd00::1", None, ROUTER_MAC),
            ("10.2.0.9", Some("fe80::fe"), "10.0.0.1", None, ROUTER_MAC),
        ] {
            let path = found.paths[&address(to)].unwrap();
            assert_eq!((path.index, path.gateway), (uplink.index, gateway.map(address)), "{to}");
            assert_eq!(
                (path.source, path.mtu, path.mac),
                (address(source), mtu, Some(mac)),
                "{to}"
            );
            assert_eq!(path.is_on_link(), gateway.is_none(), "{to}");
            assert_eq!(found.problem_of(address(to)), None);
        }
        let reason = |text| found.paths[&address(text)].unwrap_err();
        assert_eq!(reason("10.0.0.1"), NoPath::Local);
        assert_eq!(reason("10.3.0.9"), NoPath::Unreachable);
        assert!(matches!(reason("10.4.0.9"), NoPath::NotEthernet(_)));
        assert_eq!(
            (reason("192.0.2.9"), reason("2001:db8::9")),
            (NoPath::NoRoute, NoPath::NoRoute)
        );
        for (neighbor, mac) in [
            ("10.0.0.2", PEER_MAC),
            ("10.0.0.254", ROUTER_MAC),
            ("fe80::fe", ROUTER_MAC),
        ] {
            assert_eq!(found.neighbors.get(&address(neighbor)), Some(&mac), "{neighbor}");
        }
        let kept = Neighbors::heddles(&Neighbors::open().table());
        assert_eq!(kept, addresses(&["10.0.0.2", "10.0.0.254", "fd00::2", "fe80::fe"]));
        let status = node.handle.status();
        assert!(status.underlay.is_some_and(|underlay| underlay.paths == found.paths));
        assert_eq!(status.underlay_problems, Vec::<String>::new());
    });
}

#[test]
fn routes_that_change_are_followed_and_their_old_next_hops_forgotten() {
    in_namespace(|| {
        let network = Network::new();
        network.router.ip(&[
            "address add 10.0.0.253/16 dev br0",
            "address add fe80::fd/64 dev br0 nodad",
        ]);
        let neighbors = Neighbors::open();
        for (family, to, first, second, default) in [
            ("-4", "10.1.0.9", "10.0.0.254", "10.0.0.253", "0.0.0.0/0"),
            ("-6", "fd01::9", "fe80::fe", "fe80::fd", "::/0"),
        ] {
            let node = Node::with_nodes(&[to]);
            node.wait_path(to, |path| *path == Err(NoPath::NoRoute));
            let via = |gateway| {
                move |underlay: &heddle_host::Underlay| {
                    let path = underlay.paths.get(&address(to)).copied();
                    path.is_some_and(|path| {
                        path.is_ok_and(|path| path.gateway == Some(address(gateway)) && path.mac == Some(ROUTER_MAC))
                    })
                }
            };
            ip(&format!("{family} route add {default} via {first} dev up0 metric 200"));
            node.wait("the route", via(first));
            neighbors.wait("the first gateway", |table| {
                Neighbors::heddles(table) == addresses(&[first])
            });
            // A second default route that is preferred, and its end.
            ip(&format!("{family} route add {default} via {second} dev up0 metric 100"));
            node.wait("the second default route", via(second));
            neighbors.wait("the second gateway", |table| {
                Neighbors::heddles(table) == addresses(&[second])
            });
            ip(&format!("{family} route del {default} via {second} dev up0 metric 100"));
            node.wait("the first default route", via(first));
            // Another gateway, an MTU.
            ip(&format!(
                "{family} route change {default} via {second} dev up0 metric 200"
            ));
            node.wait("the changed gateway", via(second));
            ip(&format!(
                "{family} route change {default} via {second} dev up0 metric 200 mtu 1380"
            ));
            node.wait_path(to, |path| path.is_ok_and(|path| path.mtu == Some(1380)));
            // A policy rule, and its end.
            ip(&format!("{family} rule add to {to} prohibit priority 5"));
            node.wait_path(to, |path| *path == Err(NoPath::Unreachable));
            ip(&format!("{family} rule del to {to} prohibit priority 5"));
            node.wait("the end of the rule", via(second));
            // No route.
            ip(&format!("{family} route del {default} via {second} dev up0 metric 200"));
            node.wait_path(to, |path| *path == Err(NoPath::NoRoute));
            neighbors.wait("no gateway", |table| Neighbors::heddles(table).is_empty());
            node.stop();
        }
    });
}

#[test]
fn nodes_come_and_go() {
    in_namespace(|| {
        let _network = Network::new();
        let neighbors = Neighbors::open();
        let node = Node::with_nodes(&["10.0.0.2", "fd00::2"]);
        node.wait_mac("10.0.0.2", Some(PEER_MAC));
        node.set_nodes(&["fd00::2", "10.0.0.254"]);
        let now = node.wait_mac("10.0.0.254", Some(ROUTER_MAC));
        assert_eq!(
            now.paths.keys().copied().collect::<std::collections::BTreeSet<_>>(),
            addresses(&["fd00::2", "10.0.0.254"])
        );
        neighbors.wait("the new nodes", |table| {
            Neighbors::heddles(table) == addresses(&["fd00::2", "10.0.0.254"])
        });
        node.set_nodes(&[]);
        node.wait("no nodes", |underlay| underlay.paths.is_empty());
        neighbors.wait("no nodes", |table| Neighbors::heddles(table).is_empty());
    });
}

#[test]
fn a_gateway_that_fails_is_replaced_where_the_kernel_chooses_by_neighbors() {
    in_namespace(|| {
        let network = Network::new();
        network.router.ip(&["address add 10.0.0.253/16 dev br0"]);
        // The kernel would remove the second address with the first one.
        network
            .router
            .run(|| sysctl::write("net/ipv4/conf/br0/promote_secondaries", "1").unwrap());
        sysctl::write("net/ipv4/fib_multipath_use_neigh", "1").unwrap();
        verify_often();
        ip("route add 10.1.0.0/16 nexthop via 10.0.0.253 nexthop via 10.0.0.254");
        let node = Node::with_nodes(&["10.1.0.9"]);
        let first = node.wait_mac("10.1.0.9", Some(ROUTER_MAC)).paths[&address("10.1.0.9")].unwrap();
        let gateway = first.gateway.unwrap();
        // The kernel announces no change of a route.
        network.router.ip(&[&format!("address del {gateway}/16 dev br0")]);
        node.wait_path("10.1.0.9", |path| {
            path.is_ok_and(|path| path.gateway != Some(gateway) && path.mac == Some(ROUTER_MAC))
        });
        network.router.ip(&[&format!("address add {gateway}/16 dev br0")]);
        node.wait_path("10.1.0.9", |path| *path == Ok(first));
    });
}
