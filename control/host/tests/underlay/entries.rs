//! The neighbor entries: repaired, taken over, removed, and others' untouched.

use heddle_linux::NeighborState;
use heddle_wire::MacAddr;

use crate::network::{Neighbors, Network, Node, PEER_MAC, address, addresses, in_namespace, ip};

const SET_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x55]);
const WRONG_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x66]);

#[test]
fn entries_that_others_remove_or_change_are_repaired() {
    in_namespace(|| {
        let _network = Network::new();
        let neighbors = Neighbors::open();
        let node = Node::with_nodes(&["10.0.0.2", "fd00::2"]);
        node.wait("the peer", |underlay| {
            underlay.paths.len() == 2 && underlay.paths.values().flatten().all(|path| path.mac.is_some())
        });
        for text in ["10.0.0.2", "fd00::2"] {
            let is_kept = |table: &crate::network::Table| {
                Neighbors::heddles(table).contains(&address(text))
                    && table[&address(text)].usable_mac() == Some(PEER_MAC)
            };
            ip(&format!("neigh del {text} dev up0"));
            neighbors.wait("the removed entry", is_kept);
            // An ordinary entry without heddle's flags, and with a wrong address.
            ip(&format!(
                "neigh replace {text} lladdr {WRONG_MAC} nud reachable dev up0"
            ));
            neighbors.wait("the flags", |table| Neighbors::heddles(table).contains(&address(text)));
            ip(&format!("neigh del {text} dev up0"));
            neighbors.wait("the entry again", is_kept);
            // An administrator's entry is used and not changed.
            ip(&format!("neigh replace {text} lladdr {SET_MAC} nud permanent dev up0"));
            node.wait_mac(text, Some(SET_MAC));
            let set = neighbors.table()[&address(text)];
            assert!(set.state == NeighborState::Permanent && !set.managed, "{set:?}");
            ip(&format!("neigh del {text} dev up0"));
            neighbors.wait("the administrator's entry is gone", is_kept);
            node.wait_mac(text, Some(PEER_MAC));
        }
    });
}

#[test]
fn entries_of_others_are_used_and_left_alone() {
    in_namespace(|| {
        let _network = Network::new();
        let neighbors = Neighbors::open();
        ip(&format!("neigh add 10.0.0.3 lladdr {SET_MAC} nud permanent dev up0"));
        ip(&format!("neigh add fd00::3 lladdr {SET_MAC} nud permanent dev up0"));
        ip("neigh add 10.0.0.2 managed extern_learn dev up0");
        ip(&format!(
            "neigh add 10.0.0.4 lladdr {SET_MAC} nud reachable extern_learn proto zebra dev up0"
        ));
        ip("neigh add 10.0.0.254 managed extern_learn proto bird dev up0");
        let others = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.254", "fd00::3"];
        let marks = |table: crate::network::Table| {
            others.map(|text| {
                let entry = table[&address(text)];
                (
                    entry.managed,
                    entry.ext_learned,
                    entry.protocol,
                    entry.state == NeighborState::Permanent,
                )
            })
        };
        let before = marks(neighbors.table());
        let node = Node::with_nodes(&["10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::2", "fd00::3"]);
        let found = node.wait("all paths", |underlay| {
            underlay.paths.len() == 5
                && underlay
                    .paths
                    .values()
                    .all(|path| path.is_ok_and(|path| path.mac.is_some()))
        });
        let mac_of = |text| found.paths[&address(text)].unwrap().mac;
        assert_eq!(
            (mac_of("10.0.0.2"), mac_of("fd00::2")),
            (Some(PEER_MAC), Some(PEER_MAC))
        );
        for text in ["10.0.0.3", "fd00::3", "10.0.0.4"] {
            assert_eq!(mac_of(text), Some(SET_MAC), "{text}");
        }
        assert_eq!(marks(neighbors.table()), before);
        assert_eq!(Neighbors::heddles(&neighbors.table()), addresses(&["fd00::2"]));
        // Neither a smaller set of nodes nor the cleanup removes them.
        node.set_nodes(&["fd00::2"]);
        node.wait("fewer nodes", |underlay| underlay.paths.len() == 1);
        assert_eq!(marks(neighbors.table()), before);
        let state = node.state.path().to_owned();
        assert!(node.handle.stop(std::time::Duration::from_secs(10)));
        let removed = Node::clean_up(&state);
        assert!(
            removed.contains(&"the neighbor entry of a path to another node".to_owned()),
            "{removed:?}"
        );
        assert_eq!(marks(neighbors.table()), before);
        assert!(Neighbors::heddles(&neighbors.table()).is_empty());
    });
}

#[test]
fn the_next_agent_takes_entries_over_and_removes_leftovers_when_it_knows_the_nodes() {
    in_namespace(|| {
        let _network = Network::new();
        let neighbors = Neighbors::open();
        let nodes = ["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"];
        let node = Node::with_nodes(&nodes);
        node.wait("the paths", |underlay| underlay.paths.len() == nodes.len());
        neighbors.wait("the entries", |table| Neighbors::heddles(table) == addresses(&nodes));
        node.stop();
        assert_eq!(
            Neighbors::heddles(&neighbors.table()),
            addresses(&nodes),
            "they stay when the agent ends"
        );
        // One on an interface that no path uses now.
        ip("link add other0 type veth peer name other1");
        ip("link set other0 up");
        ip("neigh add 192.0.2.7 managed extern_learn proto 104 dev other0");
        let next = Node::start();
        next.wait("the uplink", |underlay| underlay.uplink.is_some());
        assert_eq!(
            Neighbors::heddles(&neighbors.table()),
            addresses(&nodes),
            "the nodes are unknown"
        );
        next.set_nodes(&["10.0.0.2", "fd00::2"]);
        neighbors.wait("the leftovers", |table| {
            Neighbors::heddles(table) == addresses(&["10.0.0.2", "fd00::2"])
        });
        let netlink = heddle_linux::Netlink::open().unwrap();
        neighbors.wait("the leftover of the other interface", |_| {
            let mut all = netlink.neighbors().unwrap().into_iter();
            all.all(|entry| entry.address != address("192.0.2.7"))
        });
        let state = next.state.path().to_owned();
        assert!(next.handle.stop(std::time::Duration::from_secs(10)));
        let removed = Node::clean_up(&state);
        assert!(
            removed.contains(&"2 neighbor entries of paths to other nodes".to_owned()),
            "{removed:?}"
        );
        assert!(Neighbors::heddles(&neighbors.table()).is_empty());
    });
}

#[test]
fn an_interface_without_ipv6_is_a_problem_of_the_underlay_alone() {
    in_namespace(|| {
        let _network = Network::new();
        // The kernel refuses IPv6 neighbors where IPv6 is off, and an IPv4 route may still have such a gateway.
        ip("route add 10.2.0.0/16 via inet6 fe80::fe dev up0");
        heddle_linux::sysctl::write("net/ipv6/conf/up0/disable_ipv6", "1").unwrap();
        let node = Node::with_nodes(&["10.0.0.2", "10.2.0.9"]);
        node.wait_mac("10.0.0.2", Some(PEER_MAC));
        let status = node.handle.status();
        let path = status.underlay.as_ref().unwrap().paths[&address("10.2.0.9")];
        assert!(path.is_ok_and(|path| path.mac.is_none()), "{status:?}");
        assert_eq!(status.underlay_problems.len(), 1, "{status:?}");
        assert!(status.underlay_problems[0].contains("fe80::fe"), "{status:?}");
        assert_eq!(status.problem().as_deref(), Some("the host port has no plan yet"));
    });
}
