//! Links, addresses, routes, neighbors, sysctls and features in a real network namespace. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is to end the test")]

use heddle_linux::netns::unshare_thread;
use heddle_linux::route::PROTOCOL_BOOT;
use heddle_linux::sysctl::{self, IpVersion, interface_key};
use heddle_linux::{Monitor, Neighbor, Netlink, Route, VethPair, bpffs, ethtool, link_index};
use heddle_wire::MacAddr;
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a network namespace of its own, which is removed with its thread.
fn in_namespace(f: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        unshare_thread().unwrap();
        f();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn pair<'a>(name: &'a str, peer: &'a str) -> VethPair<'a> {
    VethPair {
        name,
        peer,
        queues: 2,
        mtu: 1400,
        peer_netns: None,
        peer_mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
    }
}

/// Returns the way in which an interface of this namespace got its Ethernet address. Only sysfs contains it, and a sysfs shows the
/// namespace in which it was mounted.
fn address_assign_type(name: &str) -> String {
    let script = format!("mount -t sysfs none /sys && cat /sys/class/net/{name}/addr_assign_type");
    let out = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn links_are_created_found_changed_and_deleted() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link("a0").unwrap(), None);
        assert_eq!(netlink.link_at(4711).unwrap(), None);
        netlink.add_veth(&pair("a0", "a1")).unwrap();
        let again = netlink.add_veth(&pair("a0", "a1")).unwrap_err();
        assert_eq!(again.errno(), Some(nix::libc::EEXIST), "{again}");
        let (a0, a1) = (
            netlink.link("a0").unwrap().unwrap(),
            netlink.link("a1").unwrap().unwrap(),
        );
        assert_eq!(
            (a0.mtu, a0.up, a0.veth, a0.tx_queues, a0.rx_queues),
            (1400, false, true, 2, 2)
        );
        assert_eq!((a0.peer_index, a1.peer_index), (Some(a1.index), Some(a0.index)));
        assert_eq!(a1.mac, Some(MacAddr([2, 0, 0, 0, 0, 9])));
        assert_eq!(link_index("a0").unwrap(), Some(a0.index));
        for name in ["a0", "a1"] {
            // systemd-udevd replaces every address that was not set explicitly (NET_ADDR_SET in include/uapi/linux/netdevice.h).
            assert_eq!(address_assign_type(name), "3", "{name}");
        }
        netlink.set_up(&a0).unwrap();
        netlink.set_mtu(&a0, 1300).unwrap();
        let changed = netlink.link_at(a0.index).unwrap().unwrap();
        assert!(changed.up && changed.mtu == 1300, "{changed:?}");
        let lo = netlink.link("lo").unwrap().unwrap();
        assert!(!lo.veth && lo.peer_index.is_none(), "{lo:?}");
        let names: Vec<String> = netlink.links().unwrap().into_iter().map(|link| link.name).collect();
        assert!(
            ["lo", "a0", "a1"]
                .iter()
                .all(|name| names.contains(&(*name).to_owned())),
            "{names:?}"
        );
        assert!(netlink.delete_link(&a0).unwrap());
        assert!(!netlink.delete_link(&a1).unwrap(), "both ends are gone");
    });
}

#[test]
fn addresses_routes_and_neighbors() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&pair("a0", "a1")).unwrap();
        let a0 = netlink.link("a0").unwrap().unwrap();
        netlink.set_up(&a0).unwrap();
        netlink.set_up(&netlink.link("a1").unwrap().unwrap()).unwrap();
        for address in ["10.0.1.1/32", "fd00::1/128"] {
            let address: IpNet = address.parse().unwrap();
            netlink.add_address(&a0, address).unwrap();
            let found = netlink.addresses_of(&a0).unwrap();
            assert!(found.iter().any(|a| a.address == address && !a.link_scope), "{found:?}");
        }
        for (destination, gateway) in [
            ("10.0.0.0/16", "169.254.1.1"),
            ("0.0.0.0/0", "169.254.1.1"),
            ("fd00::/48", "fe80::1"),
        ] {
            let route = Route {
                destination: destination.parse().unwrap(),
                gateway: Some(gateway.parse().unwrap()),
                index: a0.index,
                source: (destination == "10.0.0.0/16").then(|| "10.0.1.1".parse().unwrap()),
                mtu: Some(1300),
                protocol: PROTOCOL_BOOT,
            };
            netlink.add_route(&route).unwrap();
            assert!(netlink.routes().unwrap().contains(&route), "{:?}", netlink.routes());
            let again = netlink.add_route(&route).unwrap_err();
            assert_eq!(again.errno(), Some(nix::libc::EEXIST), "{again}");
            assert!(netlink.remove_route(&route).unwrap());
            assert!(!netlink.remove_route(&route).unwrap());
        }
        let neighbor = Neighbor {
            address: "fe80::1".parse().unwrap(),
            mac: MacAddr::GATEWAY,
        };
        netlink.set_neighbor(&a0, neighbor).unwrap();
        assert!(netlink.neighbors_of(&a0).unwrap().contains(&neighbor));
        assert!(netlink.remove_address(&a0, "10.0.1.1/32".parse().unwrap()).unwrap());
        assert!(!netlink.remove_address(&a0, "10.0.1.1/32".parse().unwrap()).unwrap());
    });
}

#[test]
fn sysctls_and_features_of_an_interface() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&pair("a0", "a1")).unwrap();
        sysctl::write_interface(IpVersion::V4, "a0", &[("forwarding", "0"), ("arp_ignore", "8")]).unwrap();
        let key = interface_key(IpVersion::V4, "a0", "arp_ignore");
        assert_eq!(sysctl::read(&key).unwrap().as_deref(), Some("8"));
        assert!(!sysctl::write_if_present("net/ipv4/conf/a0/no_such_key", "1").unwrap());
        sysctl::write("net/ipv4/conf/a0/no_such_key", "1").unwrap_err();
        let a0 = netlink.link("a0").unwrap().unwrap();
        ethtool::switch_off(&a0, &["tx-checksum-ip-generic", "tx-checksum-sctp"]).unwrap();
        let shown = std::process::Command::new("ethtool").args(["-k", "a0"]).output();
        if let Ok(shown) = shown {
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.contains("tx-checksum-ip-generic: off"), "{shown}");
        }
        ethtool::switch_off(&a0, &["no-such-feature"]).unwrap_err();
    });
}

#[test]
fn receive_queues_are_counted() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&pair("a0", "a1")).unwrap();
        let a0 = netlink.link("a0").unwrap().unwrap();
        assert_eq!(ethtool::receive_channels(&a0).unwrap(), Some(2));
        // The loopback device has no channels.
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!(ethtool::receive_channels(&lo).unwrap(), None);
        netlink.delete_link(&a0).unwrap();
        ethtool::receive_channels(&a0).unwrap_err();
    });
}

#[test]
fn a_bpf_file_system_is_mounted_once() {
    // In a mount namespace of the thread's own, so that nothing of it is left.
    let test = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        let directory = std::env::temp_dir().join(format!("heddle-bpffs-{}", std::process::id()));
        let place = directory.join("bpf");
        assert!(!bpffs::is_bpffs(&place).unwrap());
        bpffs::mount(&place).unwrap_err();
        std::fs::create_dir(&directory).unwrap();
        bpffs::mount(&place).unwrap();
        assert!(bpffs::is_bpffs(&place).unwrap());
        bpffs::mount(&place).unwrap();
        assert!(bpffs::unmount(&place).unwrap());
        assert!(!bpffs::unmount(&place).unwrap());

        // Files would be hidden, and something else than a directory would be mounted over.
        std::fs::write(place.join("file"), "").unwrap();
        let refused = bpffs::mount(&place).unwrap_err().to_string();
        assert!(refused.contains("contains files"), "{refused}");
        let refused = bpffs::mount(&place.join("file")).unwrap_err().to_string();
        assert!(refused.contains("else than a directory"), "{refused}");
        std::fs::remove_dir_all(&directory).unwrap();
    };
    std::thread::spawn(test)
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_monitor_sees_changes_of_links_addresses_and_tables() {
    in_namespace(|| {
        let network = Monitor::network().unwrap();
        let tables = Monitor::nftables().unwrap();
        assert!(network.drain().is_empty() && tables.drain().is_empty());
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&pair("a0", "a1")).unwrap();
        assert!(network.drain().others && network.drain().is_empty());
        let link = netlink.link("a0").unwrap().unwrap();
        netlink.add_address(&link, "192.0.2.1/24".parse().unwrap()).unwrap();
        assert!(network.drain().others && tables.drain().is_empty());
        let added = std::process::Command::new("nft")
            .args(["add", "table", "inet", "t"])
            .status();
        assert!(added.unwrap().success());
        assert!(tables.drain().others && network.drain().is_empty());
    });
}
