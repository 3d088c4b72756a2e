//! The host port in a real network namespace: made, changed, taken over, removed. Needs root, as the agent does.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a failure is to end the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;

use heddle_host::frontends::{ExternalFrontend, NodePort};
use heddle_host::nft::Table;
use heddle_host::{self as host, HostPort, Nft, Plan, netlink, reserved};
use heddle_model::Protocol;
use nix::sched::{CloneFlags, unshare};

/// Runs in a network namespace of its own, which goes with its thread.
fn in_namespace<T: Send + 'static>(f: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(f())
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a program and returns its output.
fn output_of(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn plan() -> Plan {
    Plan {
        addresses: BTreeSet::from([ip("10.0.1.1"), ip("fd00:1::1")]),
        routes: BTreeMap::from([
            ("10.0.0.0/16".parse().unwrap(), ip("192.0.2.1")),
            ("10.96.0.1/32".parse().unwrap(), ip("192.0.2.1")),
            ("fd00::/48".parse().unwrap(), ip("fd00:1::1")),
            ("fd01::/112".parse().unwrap(), ip("2001:db8::1")),
        ]),
        mtu: 1400,
        table: Table {
            pod_ranges: BTreeSet::from(["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]),
            unmasqueraded: BTreeSet::from(["10.0.0.0/16".parse().unwrap(), "10.96.0.1/32".parse().unwrap()]),
            reserved: Some(61_000..=65_535),
            node_ports: BTreeSet::from([
                NodePort {
                    v4: true,
                    protocol: Protocol::Sctp,
                    port: 30_099,
                },
                NodePort {
                    v4: false,
                    protocol: Protocol::Tcp,
                    port: 30_080,
                },
            ]),
            loopback_ports: BTreeSet::from([NodePort {
                v4: true,
                protocol: Protocol::Sctp,
                port: 30_099,
            }]),
            node_port_targets: BTreeSet::from([ip("10.0.1.2"), ip("fd00:1::2")]),
            external: [("203.0.113.5", "10.0.1.3"), ("2001:db8:5::5", "fd00:1::3")]
                .map(|(outer, at)| {
                    let outer = ExternalFrontend {
                        ip: ip(outer),
                        protocol: Protocol::Tcp,
                        port: 80,
                    };
                    (outer, (ip(at), 1))
                })
                .into(),
            external_addresses: BTreeSet::from([ip("203.0.113.5"), ip("2001:db8:5::5")]),
            node_addresses: BTreeSet::from([ip("192.0.2.1"), ip("2001:db8::1")]),
        },
    }
}

#[test]
fn made_changed_taken_over_and_removed() {
    in_namespace(async || {
        let state = tempfile::tempdir().unwrap();
        output_of("ip", &["link", "add", "uplink", "type", "bridge"]);
        output_of("ip", &["address", "add", "192.0.2.1/24", "dev", "uplink"]);
        output_of("ip", &["link", "set", "uplink", "up"]);
        output_of("ip", &["route", "add", "10.96.0.1/32", "dev", "uplink"]);
        let handle = netlink::connect().unwrap();
        let mut port = HostPort::open(handle.clone(), 3, 1500, Nft::default()).unwrap();

        let failed = port.apply(&plan(), true).await.failures;
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(
            failed[0].to_string().contains("10.96.0.1/32") && failed[0].to_string().contains("not heddle's"),
            "{}",
            failed[0]
        );
        output_of("ip", &["route", "del", "10.96.0.1/32", "dev", "uplink"]);
        assert!(port.apply(&plan(), true).await.failures.is_empty());

        let routes = output_of("ip", &["route", "show", "dev", host::INTERFACE]);
        assert!(
            routes.contains("10.0.0.0/16 via 169.254.1.1 proto 104 src 192.0.2.1 onlink"),
            "{routes}"
        );
        let routes = output_of("ip", &["-6", "route", "show", "dev", host::INTERFACE]);
        assert!(
            routes.contains("fd00::/48 via fe80::1 proto 104 src fd00:1::1"),
            "{routes}"
        );
        assert!(
            routes.contains("fd01::/112 via fe80::1 proto 104 src fd00:1::1"),
            "a source that is not there: {routes}"
        );
        let neighbours = output_of("ip", &["neigh", "show", "dev", host::INTERFACE]);
        assert!(
            neighbours.contains("169.254.1.1 lladdr 02:68:65:64:64:6c PERMANENT"),
            "{neighbours}"
        );
        assert!(output_of("ip", &["route", "get", "10.0.7.7"]).contains("src 192.0.2.1"));
        let table = output_of("nft", &["list", "table", "inet", "heddle"]);
        assert!(table.contains("masquerade to :1024-60999"), "{table}");
        assert!(
            table.contains("dnat ip to 10.0.1.2") && table.contains("dnat ip6 to fd00:1::2"),
            "{table}"
        );
        assert!(
            table.contains("2001:db8:5::5 . tcp . 80 : fd00:1::3 . 1")
                && table.contains("snat ip to 192.0.2.1:1024-60999"),
            "{table}"
        );

        // The next agent finds it and changes nothing but what differs.
        let before = output_of("ip", &["-o", "link", "show", "dev", host::INTERFACE]);
        let mut again = HostPort::open(handle.clone(), 3, 1500, Nft::default()).unwrap();
        let mut other = plan();
        other.routes.remove(&"10.96.0.1/32".parse().unwrap());
        assert!(again.apply(&other, true).await.failures.is_empty());
        assert_eq!(output_of("ip", &["-o", "link", "show", "dev", host::INTERFACE]), before);
        assert!(!output_of("ip", &["route"]).contains("10.96.0.1"));
        other.addresses.remove(&ip("fd00:1::1"));
        other.routes.retain(|range, _| range.addr().is_ipv4());
        assert!(again.apply(&other, true).await.failures.is_empty());
        assert!(!output_of("ip", &["-6", "route", "show", "dev", host::INTERFACE]).contains("proto 104"));

        // Another number of workers: another pair.
        let wider = HostPort::open(handle.clone(), 2, 1500, Nft::default()).unwrap();
        assert_ne!(wider.index(), again.index());

        let removed = host::remove(&handle, state.path()).await.unwrap();
        assert_eq!(removed.len(), 2, "{removed:?}");
        assert!(!output_of("ip", &["-o", "link"]).contains("hedd"));
        assert!(output_of("nft", &["list", "ruleset"]).trim().is_empty());
        assert!(
            host::remove(&handle, state.path()).await.unwrap().is_empty(),
            "removing twice is no error"
        );
    });
}

#[test]
fn reserved_ports_stand_beside_those_of_others() {
    in_namespace(async || {
        let state = tempfile::tempdir().unwrap();
        let file = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let now = || std::fs::read_to_string(file).unwrap().trim().to_owned();
        std::fs::write(file, "8080,65000-65010").unwrap();
        reserved::reserve(state.path(), &(61_000..=65_535)).unwrap();
        assert_eq!(now(), "8080,61000-65535");
        reserved::reserve(state.path(), &(62_000..=65_535)).unwrap();
        assert_eq!(now(), "8080,62000-65535", "a range used no more is given back");
        assert!(reserved::release(state.path()).unwrap().is_some());
        assert_eq!(now(), "8080,65000-65010");
        assert_eq!(reserved::release(state.path()).unwrap(), None);
        std::fs::write(file, "\n").unwrap();
        reserved::reserve(state.path(), &(61_000..=65_535)).unwrap();
        reserved::release(state.path()).unwrap();
        assert_eq!(now(), "");
    });
}

#[test]
fn a_foreign_interface_of_the_name_is_left_alone() {
    in_namespace(async || {
        output_of("ip", &["link", "add", host::INTERFACE, "type", "bridge"]);
        let handle = netlink::connect().unwrap();
        let error = HostPort::open(handle, 1, 1500, Nft::default()).unwrap_err().to_string();
        assert!(error.contains("heddle0") && error.contains("not heddle's"), "{error}");
        assert!(output_of("ip", &["link"]).contains("heddle0"));
    });
}
