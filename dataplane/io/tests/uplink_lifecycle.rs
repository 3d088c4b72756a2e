//! Attaching, takeover, refusals and detaching of the uplink's program, each test in namespaces of its own. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod harness;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::nic::{ALL, At, Rig, attach, limits, nic, with_pins};
use harness::{SOON, Tap, context, index, ip};
use heddle_io::uplink::{Steering, Uplink, UplinkLimits, receive_queues};
use heddle_io::{XdpError, XdpMode};
use heddle_port::{Capabilities, Port, PortId, WorkerId, WorkerPool};
use heddle_wire::testing::{self, mac};

fn steering() -> Steering {
    Steering {
        addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        tunnel_port: Some(4789),
        frontends: BTreeSet::from([("0.0.0.0".parse().unwrap(), 17, 30_000)]),
        ..Steering::default()
    }
}

fn datagram(port: u16) -> Vec<u8> {
    let (src, dst) = (testing::ip("192.0.2.9"), testing::ip("192.0.2.1"));
    testing::udp(mac(1), mac(2), src, dst, 4000, port, b"datagram")
}

/// Returns the ids of the link and of the program that is attached to the device.
fn ids(uplink: &Uplink) -> (u32, u32) {
    let device = heddle_linux::Netlink::open()
        .unwrap()
        .link(uplink.ifname())
        .unwrap()
        .unwrap();
    assert_eq!(device.xdp_program, Some(uplink.program_id()));
    (uplink.link_id().unwrap(), uplink.program_id())
}

#[test]
fn a_later_agent_takes_the_program_over() {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        with_pins(move |pins| {
            let mut rig = Rig::new(pins, mode, &steering());
            assert_eq!(rig.send(&datagram(30_000)), At::Heddle);
            let first = ids(&rig.uplink);
            // The agent ends without closing anything. Its packets are dropped, and the kernel keeps the others.
            let Rig {
                uplink,
                context,
                port,
                wire,
                kernel,
                ..
            } = rig;
            drop((port, context, uplink));
            wire.send(&datagram(30_000));
            wire.send(&datagram(53));
            assert_eq!(kernel.receive(SOON).unwrap(), datagram(53));
            assert_eq!(kernel.receive(harness::NEVER), None);
            drop((wire, kernel));
            // The next one finds link, program and maps, and changes nothing but entries.
            let mut rig = Rig::on_nic(pins, mode, &steering());
            assert_eq!(ids(&rig.uplink), first);
            assert!(rig.uplink.is_attached().unwrap());
            assert_eq!(rig.send(&datagram(30_000)), At::Heddle);
            assert_eq!(rig.send(&datagram(53)), At::Kernel);
            // The difference is taken against the maps: nothing of the first agent's is left over.
            let none = Steering::default();
            rig.uplink.set(&none).unwrap();
            assert_eq!(rig.send(&datagram(30_000)), At::Kernel);
            rig.close();
        });
    }
}

#[test]
fn while_maps_and_program_are_replaced_nothing_leaks_to_the_kernel() {
    with_pins(|pins| {
        let rig = Rig::new(pins, XdpMode::Native, &steering());
        let before = ids(&rig.uplink);
        let Rig {
            uplink,
            context,
            port,
            wire,
            kernel,
            ..
        } = rig;
        drop((port, context, uplink));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                wire.send(&datagram([30_000, 4789][sent % 2]));
                sent += 1;
            }
            sent
        });
        // Other sizes: larger, smaller, and one map alone.
        let sizes = [
            UplinkLimits {
                frontends: 32,
                addresses: 9,
                ..limits()
            },
            UplinkLimits {
                frontends: 3,
                ..limits()
            },
            UplinkLimits {
                queues: 2,
                fragments: 64,
                ..limits()
            },
        ];
        let mut program = before.1;
        for limits in sizes {
            let mut uplink = Uplink::attach("nic", index("nic"), pins, &limits).unwrap();
            let after = ids(&uplink);
            assert_eq!(after.0, before.0, "the same link");
            assert_ne!(after.1, program, "another program");
            program = after.1;
            uplink.set(&steering()).unwrap();
            // Frontends come and go, and those that stay are never missing.
            for round in 1..50 {
                let mut more = steering();
                more.frontends.insert(("0.0.0.0".parse().unwrap(), 6, round));
                more.addresses.insert("192.0.2.77".parse().unwrap());
                uplink.set(&more).unwrap();
            }
            uplink.set(&steering()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap();
        assert!(sent > 1000, "{sent}");
        assert_eq!(kernel.receive(harness::NEVER), None, "of {sent}");
        // The same sizes as last time replace nothing.
        let last = UplinkLimits {
            queues: 2,
            fragments: 64,
            ..limits()
        };
        let uplink = Uplink::attach("nic", index("nic"), pins, &last).unwrap();
        assert_eq!(ids(&uplink), (before.0, program));
    });
}

#[test]
fn an_interrupted_replacement_is_repaired() {
    with_pins(|pins| {
        nic(XdpMode::Native);
        let before = ids(&attach(pins).unwrap());
        // As if an agent was killed between the replacement of the program and that of the pins: a pinned map is not the program's.
        std::fs::remove_file(pins.join("frontends")).unwrap();
        let mut uplink = attach(pins).unwrap();
        let after = ids(&uplink);
        assert_eq!(after.0, before.0);
        assert_ne!(after.1, before.1);
        uplink.set(&steering()).unwrap();
        drop(uplink);
        let mut rig = Rig::on_nic(pins, XdpMode::Native, &steering());
        assert_eq!(rig.send(&datagram(30_000)), At::Heddle);
        rig.close();
    });
}

#[test]
fn another_programs_device_is_refused() {
    with_pins(|pins| {
        nic(XdpMode::Native);
        // A pod port's program is not the uplink's.
        let mut context = context();
        let port = context.open(harness::on("nic", 0)).unwrap();
        let segments = Capabilities {
            tx_large_segments: true,
            ..Capabilities::VETH
        };
        assert_eq!(port.capabilities(), segments);
        let error = attach(pins).unwrap_err();
        let XdpError::ForeignProgram { id, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*id, context.program_id());
        let text = error.to_string();
        assert!(text.contains("heddle_port") && text.contains("xdp off"), "{text}");
        context.close(port);
        ip("link set dev nic xdp off");
        let uplink = attach(pins).unwrap();
        assert_eq!(uplink.ifname(), "nic");
        assert_eq!(receive_queues("nic").unwrap(), 1);
    });
}

#[test]
fn refusals_have_a_reason() {
    with_pins(|pins| {
        nic(XdpMode::Native);
        let refused = |ifname: &str, ifindex: u32, pins: &Path, limits: &UplinkLimits, words: &str| {
            let error = Uplink::attach(ifname, ifindex, pins, limits).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        };
        refused("nowhere", 5, pins, &limits(), "not in this network namespace");
        refused("nic", 9999, pins, &limits(), "not in this network namespace");
        refused(
            "nic",
            index("nic"),
            Path::new("/tmp"),
            &limits(),
            "/tmp is in no BPF file system",
        );
        refused("nic", index("nic"), &pins.join("none"), &limits(), "mount one");
        let none = UplinkLimits { peers: 0, ..limits() };
        refused("nic", index("nic"), pins, &none, "peers = 0");
        receive_queues("nowhere").unwrap_err();

        let uplink = attach(pins).unwrap();
        let mut context = context();
        let refused = |context: &mut heddle_io::XdpContext, queue, port, words: &str| {
            let error = context
                .open_uplink(&uplink, queue, PortId(port))
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{error}");
            harness::assert_all_frames(context);
        };
        refused(&mut context, 1, 0, "no queue 1");
        refused(&mut context, 0, 5000, "not below");
        ip("link set dev nic down");
        refused(&mut context, 0, 0, "is down");
        ip("link set dev nic up");
        let port = context.open_uplink(&uplink, 0, PortId(0)).unwrap();
        let error = context.open_uplink(&uplink, 0, PortId(0)).unwrap_err();
        assert!(matches!(error, XdpError::PortOpen { .. }), "{error}");
        context.close(port);
    });
}

#[test]
fn a_full_map_is_named_and_the_rest_is_written() {
    with_pins(|pins| {
        let mut rig = Rig::new(pins, XdpMode::Native, &steering());
        // `limits` has room for 16 frontends, 8 addresses and 4 ranges.
        let many = |count: u16| {
            let frontends = (1..=count).map(|port| ("0.0.0.0".parse().unwrap(), 17, port));
            Steering {
                frontends: frontends.collect(),
                ..steering()
            }
        };
        let error = rig.uplink.set(&many(17)).unwrap_err();
        assert!(
            matches!(
                error,
                XdpError::UplinkMapFull {
                    map: "frontends",
                    limit: 16,
                    wanted: 17,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("fewer node ports"), "{error}");
        let steered = (1..=17).filter(|port| rig.send(&datagram(*port)) == At::Heddle).count();
        assert_eq!(steered, 16);
        // A full map can change all of its entries.
        rig.uplink.set(&many(16)).unwrap();
        let others = Steering {
            frontends: (101..=116).map(|port| ("0.0.0.0".parse().unwrap(), 17, port)).collect(),
            ..steering()
        };
        rig.uplink.set(&others).unwrap();
        assert_eq!(
            (rig.send(&datagram(116)), rig.send(&datagram(16))),
            (At::Heddle, At::Kernel)
        );

        let networks = |text: &str| {
            (0..5)
                .map(|n| text.replace('N', &n.to_string()).parse().unwrap())
                .collect()
        };
        let ranges = Steering {
            pods: networks("10.N.0.0/16"),
            ..steering()
        };
        let error = rig.uplink.set(&ranges).unwrap_err();
        assert!(
            matches!(
                error,
                XdpError::UplinkMapFull {
                    map: "pods",
                    limit: 4,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(rig.send(&datagram(30_000)), At::Heddle);
        rig.uplink.set(&steering()).unwrap();
        rig.close();
    });
}

#[test]
fn the_uplink_moves_to_another_device() {
    with_pins(|pins| {
        let rig = Rig::new(pins, XdpMode::Native, &steering());
        let first = ids(&rig.uplink);
        rig.close();
        // Another device: the old one is free again.
        ip("link add name other type veth peer name otherp");
        let uplink = Uplink::attach("other", index("other"), pins, &limits()).unwrap();
        let second = ids(&uplink);
        assert_ne!(second.0, first.0);
        let netlink = heddle_linux::Netlink::open().unwrap();
        let program = |name: &str| netlink.link(name).unwrap().unwrap().xdp_program;
        assert_eq!((program("nic"), program("other")), (None, Some(uplink.program_id())));
        // The device is deleted, and there is a new one.
        ip("link del dev other");
        assert!(!uplink.is_attached().unwrap());
        drop(uplink);
        let mut rig = Rig::on_nic(pins, XdpMode::Native, &steering());
        assert_eq!(rig.send(&datagram(30_000)), At::Heddle);
        rig.close();
    });
}

#[test]
fn cleanup_detaches_and_unpins() {
    with_pins(|pins| {
        assert!(!Uplink::detach_pinned(Path::new("/nowhere")).unwrap());
        assert!(!Uplink::detach_pinned(pins).unwrap());
        let mut rig = Rig::new(pins, XdpMode::Native, &steering());
        assert_eq!(rig.send(&datagram(30_000)), At::Heddle);
        std::fs::create_dir(pins.join("other")).unwrap();
        // Also while an agent has the link open.
        assert!(Uplink::detach_pinned(pins).unwrap());
        assert_eq!(rig.send(&datagram(30_000)), At::Kernel);
        assert!(!rig.uplink.is_attached().unwrap());
        assert!(!Uplink::detach_pinned(pins).unwrap());
        // The kernel has files of its own in a bpffs.
        let mut left: Vec<_> = std::fs::read_dir(pins)
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        left.retain(|name| !name.to_string_lossy().ends_with(".debug"));
        assert_eq!(left, ["other"]);
        rig.close();
    });
}

#[test]
fn every_queue_has_a_socket_of_its_own() {
    with_pins(|pins| {
        ip("link add name nic numtxqueues 2 numrxqueues 2 type veth peer name nicp numtxqueues 2 numrxqueues 2");
        ip("link set dev nic up");
        ip("link set dev nicp up");
        assert_eq!(receive_queues("nic").unwrap(), 2);
        let mut uplink = attach(pins).unwrap();
        uplink.set(&steering()).unwrap();
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut ports: Vec<_> = (0..2)
            .map(|queue| context.open_uplink(&uplink, queue, PortId(7 - queue as u16)).unwrap())
            .collect();
        let wire = Tap::new("nicp", ALL);
        let (src, dst) = (testing::ip("192.0.2.9"), testing::ip("192.0.2.1"));
        for sport in 1..=32 {
            wire.send(&testing::udp(mac(1), mac(2), src, dst, sport, 30_000, b"x"));
        }
        let mut counts = [0, 0];
        let until = std::time::Instant::now() + SOON;
        while counts.iter().sum::<usize>() < 32 && std::time::Instant::now() < until {
            for (port, count) in ports.iter_mut().zip(&mut counts) {
                let packets = harness::receive(port, &mut pool, std::time::Duration::from_millis(1));
                *count += packets.len();
                packets.into_iter().for_each(|packet| pool.free_packet(packet));
            }
        }
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), 32);
        ports.into_iter().for_each(|port| context.close(port));
        drop(pool);
        harness::assert_all_frames(&context);
    });
}

#[test]
fn large_packets_come_over_many_frames() {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        with_pins(move |pins| {
            nic(mode);
            ip("link set dev nic mtu 9000");
            ip("link set dev nicp mtu 9000");
            let mut rig = Rig::on_nic(pins, mode, &steering());
            let (src, dst) = (testing::ip("192.0.2.9"), testing::ip("192.0.2.1"));
            let large = testing::udp(mac(1), mac(2), src, dst, 4000, 30_000, &[7; 8900]);
            assert_eq!(rig.send(&large), At::Heddle);
            let large = testing::udp(mac(1), mac(2), src, dst, 4000, 53, &[7; 8900]);
            assert_eq!(rig.send(&large), At::Kernel);
            rig.close();
        });
    }
}
