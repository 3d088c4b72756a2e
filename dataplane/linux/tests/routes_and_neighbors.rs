//! The kernel's route to an address, and managed neighbors, in real network namespaces. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is to end the test")]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use heddle_linux::netns::unshare_thread;
use heddle_linux::{Monitor, NeighborEntry, NeighborState, Netlink, NextHop, Resolved};
use heddle_wire::MacAddr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The protocol number that the tests set entries with.
const PROTOCOL: u8 = 104;
const SOON: Duration = Duration::from_secs(10);

/// Runs a test in a network namespace of its own, which is removed with its thread.
fn in_namespace(f: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        unshare_thread().unwrap();
        f();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs `ip` with the words of a line.
fn ip(line: &str) {
    let out = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(
        out.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits for a notification.
fn wait_for(monitor: &Monitor, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    assert!(!left.is_zero(), "no notification of what the test waits for");
    let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
}

/// Makes the interface `here0` with addresses of both families; its other end, `there0`, is in the same namespace and answers
/// nothing. Returns the index of `here0`.
fn link(netlink: &Netlink) -> u32 {
    let monitor = Monitor::network().unwrap();
    ip("link set lo up");
    ip("link add here0 type veth peer name there0");
    ip("link set here0 up");
    ip("link set there0 up");
    ip("address add 10.0.0.1/16 dev here0");
    ip("address add fd00::1/64 dev here0 nodad");
    // The kernel uses IPv6 addresses of a link only after it has processed the carrier, which it does in the background.
    let until = Instant::now() + SOON;
    while netlink.route_to(address("fd00::1")).unwrap() != Some(Resolved::Local) {
        wait_for(&monitor, until);
        let _ = monitor.drain();
    }
    netlink.link("here0").unwrap().unwrap().index
}

#[test]
fn the_route_to_an_address_is_the_kernels() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let to = |text: &str| netlink.route_to(address(text)).unwrap();
        let hop = |gateway: Option<&str>, source: &str, mtu| {
            Some(Resolved::Unicast(NextHop {
                index,
                gateway: gateway.map(address),
                source: Some(address(source)),
                mtu,
            }))
        };
        // On the link, this node's own, and none at all.
        assert_eq!(to("10.0.0.7"), hop(None, "10.0.0.1", None));
        assert_eq!(to("fd00::7"), hop(None, "fd00::1", None));
        assert_eq!(
            (to("10.0.0.1"), to("fd00::1")),
            (Some(Resolved::Local), Some(Resolved::Local))
        );
        assert_eq!((to("192.0.2.1"), to("2001:db8::1")), (None, None));
        assert_eq!(to("10.0.255.255"), Some(Resolved::Unreachable), "a broadcast address");
        // Routes that refuse.
        for (n, kind) in ["unreachable", "blackhole", "prohibit"].into_iter().enumerate() {
            ip(&format!("route add {kind} 198.51.{n}.0/24"));
            ip(&format!("-6 route add {kind} fd9{n}::/32"));
            assert_eq!(to(&format!("198.51.{n}.1")), Some(Resolved::Unreachable), "{kind}");
            assert_eq!(to(&format!("fd9{n}::1")), Some(Resolved::Unreachable), "{kind}");
        }
        // Gateways, an MTU and a preferred source.
        ip("address add 10.0.0.2/32 dev here0");
        ip("route add 192.0.2.0/24 via 10.0.0.254 mtu 1400 src 10.0.0.2");
        ip("-6 route add 2001:db8::/32 via fe80::fe dev here0 mtu 1380");
        assert_eq!(to("192.0.2.1"), hop(Some("10.0.0.254"), "10.0.0.2", Some(1400)));
        assert_eq!(to("2001:db8::1"), hop(Some("fe80::fe"), "fd00::1", Some(1380)));
        ip("route add 203.0.113.0/24 via inet6 fe80::fd dev here0 onlink");
        assert_eq!(to("203.0.113.1"), hop(Some("fe80::fd"), "10.0.0.1", None));
        // A policy rule decides.
        ip("route add default via 10.0.0.253 table 77");
        ip("rule add to 192.0.2.0/24 table 77");
        assert_eq!(to("192.0.2.1"), hop(Some("10.0.0.253"), "10.0.0.1", None));
        ip("rule add to 192.0.2.128/25 prohibit priority 1");
        assert_eq!(to("192.0.2.129"), Some(Resolved::Unreachable));
        // One of several hops, and always the same one.
        ip("route add 198.18.0.0/16 nexthop via 10.0.0.251 nexthop via 10.0.0.252");
        let chosen = to("198.18.0.1");
        let hops = [
            hop(Some("10.0.0.251"), "10.0.0.1", None),
            hop(Some("10.0.0.252"), "10.0.0.1", None),
        ];
        assert!(hops.contains(&chosen), "{chosen:?}");
        assert_eq!(to("198.18.0.1"), chosen);
    });
}

/// Returns the entry of an address on an interface.
fn entry(netlink: &Netlink, index: u32, text: &str) -> Option<NeighborEntry> {
    let wanted = address(text);
    let entries = netlink.neighbors().unwrap();
    entries
        .into_iter()
        .find(|entry| (entry.index, entry.address) == (index, wanted))
}

#[test]
fn managed_neighbors_are_set_and_removed() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        for text in ["10.0.0.7", "fd00::7"] {
            netlink.manage_neighbor(index, address(text), PROTOCOL, true).unwrap();
            let set = entry(&netlink, index, text).unwrap();
            assert!(set.managed && set.ext_learned && set.protocol == PROTOCOL, "{set:?}");
            assert_eq!(set.usable_mac(), None, "nobody answers: {set:?}");
            let again = netlink
                .manage_neighbor(index, address(text), PROTOCOL, true)
                .unwrap_err();
            assert_eq!(again.errno(), Some(nix::libc::EEXIST), "{again}");
            netlink.manage_neighbor(index, address(text), PROTOCOL, false).unwrap();
            assert!(netlink.remove_neighbor(index, address(text)).unwrap());
            assert!(!netlink.remove_neighbor(index, address(text)).unwrap());
            assert_eq!(entry(&netlink, index, text), None);
        }
        let gone = netlink
            .manage_neighbor(4711, address("10.0.0.7"), PROTOCOL, true)
            .unwrap_err();
        assert_eq!(gone.errno(), Some(nix::libc::ENODEV), "{gone}");
        assert!(!netlink.remove_neighbor(4711, address("10.0.0.7")).unwrap());
        // An entry that the kernel has learned becomes managed and keeps its Ethernet address.
        ip("neigh add 10.0.0.8 lladdr 02:00:00:00:00:08 nud reachable dev here0");
        netlink
            .manage_neighbor(index, address("10.0.0.8"), PROTOCOL, false)
            .unwrap();
        let learned = entry(&netlink, index, "10.0.0.8").unwrap();
        assert!(learned.managed && learned.protocol == PROTOCOL, "{learned:?}");
        assert_eq!(learned.usable_mac(), Some(MacAddr([2, 0, 0, 0, 0, 8])));
        // A permanent one is left alone by a request for a new entry.
        ip("neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 nud permanent dev here0");
        netlink
            .manage_neighbor(index, address("10.0.0.9"), PROTOCOL, true)
            .unwrap_err();
        let permanent = entry(&netlink, index, "10.0.0.9").unwrap();
        assert!(
            permanent.state == NeighborState::Permanent && !permanent.managed,
            "{permanent:?}"
        );
        let here = netlink.link("here0").unwrap().unwrap();
        let listed = netlink.neighbors_of(&here).unwrap();
        assert_eq!(listed.len(), 1, "only the permanent one: {listed:?}");
    });
}

#[test]
fn five_thousand_managed_neighbors_fit_whatever_the_tables_limit_is() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        for n in 256..5256u16 {
            let [high, low] = n.to_be_bytes();
            let neighbor = IpAddr::from([10, 0, high, low]);
            netlink.manage_neighbor(index, neighbor, PROTOCOL, true).unwrap();
        }
        let managed = netlink.neighbors().unwrap().into_iter().filter(|entry| entry.managed);
        assert_eq!(managed.count(), 5000);
    });
}

/// Waits until the monitor announces an address as a neighbor, and returns its entry.
fn announced(monitor: &Monitor, index: u32, text: &str) -> Option<NeighborEntry> {
    let until = Instant::now() + SOON;
    loop {
        let changes = monitor.drain();
        if let Some(entry) = changes.neighbors.get(&(index, address(text))) {
            return *entry;
        }
        wait_for(monitor, until);
    }
}

#[test]
fn a_monitor_announces_neighbors_rules_and_next_hops() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let monitor = Monitor::network().unwrap();
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 8]));
        for (text, family) in [("10.0.0.8", "-4"), ("fd00::8", "-6")] {
            ip(&format!(
                "{family} neigh add {text} lladdr 02:00:00:00:00:08 nud reachable dev here0"
            ));
            let added = announced(&monitor, index, text).unwrap();
            assert_eq!((added.usable_mac(), added.managed), (mac, false), "{added:?}");
            netlink.manage_neighbor(index, address(text), PROTOCOL, false).unwrap();
            let managed = announced(&monitor, index, text).unwrap();
            assert!(managed.managed && managed.protocol == PROTOCOL, "{managed:?}");
            netlink.remove_neighbor(index, address(text)).unwrap();
            // The kernel announces the failed entry first, and the removal at once after it.
            while announced(&monitor, index, text).is_some() {}
        }
        // An entry of a bridge is no neighbor.
        ip("link add br0 type bridge");
        ip("link set there0 master br0");
        while !monitor.drain().is_empty() {}
        for line in [
            "rule add to 192.0.2.0/24 table 77",
            "-6 rule add to fd01::/64 table 77",
            "nexthop add id 7 dev here0",
        ] {
            ip(line);
            assert!(monitor.drain().others, "{line}");
        }
        ip("nexthop del id 7");
    });
}

#[test]
fn later_changes_replace_earlier_ones() {
    let key = (7, address("10.0.0.8"));
    let mut changes = heddle_linux::Changes::default();
    assert!(changes.is_empty());
    let mut later = heddle_linux::Changes::default();
    later.neighbors.insert(key, None);
    changes.merge(later.clone());
    assert!(!changes.is_empty() && !changes.others && changes.neighbors[&key].is_none());
    changes.merge(heddle_linux::Changes { others: true, ..later });
    assert!(changes.others && changes.neighbors.len() == 1);
}

#[test]
fn a_link_without_carrier_and_one_without_arp_are_told_apart() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        link(&netlink);
        let state = |name: &str| {
            let link = netlink.link(name).unwrap().unwrap();
            (link.up, link.carrier, link.noarp)
        };
        assert_eq!(state("here0"), (true, true, false));
        ip("link set there0 down");
        assert_eq!(state("here0"), (true, false, false));
        ip("link set here0 arp off");
        assert!(state("here0").2);
        ip("link set here0 down");
        assert_eq!(state("here0"), (false, false, true));
    });
}
