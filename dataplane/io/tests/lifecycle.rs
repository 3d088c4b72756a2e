//! Opening and closing, takeover and refusals, on real veths, each test in a network namespace of its own. They need
//! root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod harness;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::*;
use heddle_io::{OpenPort, XdpConfig, XdpContext, XdpError, XdpMode, XdpPort};
use heddle_linux::Netlink;
use heddle_port::{Packet, PacketVec, Port, PortId, WorkerId, WorkerPool};

#[test]
fn when_every_other_device_is_gone_ports_can_still_be_opened() {
    in_each_mode(|mode| {
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        for round in 0..3 {
            veth("a", 1500, 1);
            veth("b", 1500, 1);
            let mut a = context.open(on_in(mode, "a", 0)).unwrap();
            let b = context.open(on_in(mode, "b", 1)).unwrap();
            let near = Tap::new("ap", ETHERTYPE);
            near.send(&frame(round, 90));
            let packet = receive_one(&mut a, &mut pool);
            assert_eq!(packet.bytes(context.store()), frame(round, 90));
            pool.free_packet(packet);
            // One device is deleted before its port is closed, the other one after it.
            ip("link del dev a");
            context.close(a);
            context.close(b);
            ip("link del dev b");
        }
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn attaching_and_detaching_under_traffic_loses_no_frame() {
    // A round takes some 40 ms; HEDDLE_CHURN=1000 for the long run.
    let rounds: u32 = std::env::var("HEDDLE_CHURN")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(120);
    in_each_mode(move |mode| {
        veth("a", 1500, 1);
        veth("b", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let (near, far) = (Tap::new("ap", ETHERTYPE), Tap::new("bp", ETHERTYPE));
        let (mut opening, mut closing, mut received) = (Duration::ZERO, Duration::ZERO, 0);
        for round in 0..rounds {
            let start = Instant::now();
            let mut a = context.open(on_in(mode, "a", 0)).unwrap();
            let mut b = context.open(on_in(mode, "b", 1)).unwrap();
            opening += start.elapsed();
            for i in 0..100 {
                near.send(&frame(round + i, 200));
                far.send(&frame(round + i, 200));
            }
            // Some are received, of those some are sent, and the ports are closed with frames in all their rings.
            let mut packets = PacketVec::new();
            received += a.rx(&mut pool, &mut packets);
            b.tx(&mut pool, &mut packets);
            if round % 2 == 0 {
                b.flush(&mut pool);
            }
            packets.drain(..).for_each(|packet| pool.free_packet(packet));
            let start = Instant::now();
            context.close(a);
            context.close(b);
            closing += start.elapsed();
            assert_eq!(
                context.store().outstanding(),
                0,
                "round {round}: {:?}",
                context.store().holders()
            );
        }
        assert!(received > rounds as usize, "{received} received in {rounds} rounds");
        drop(pool);
        assert_all_frames(&context);
        eprintln!(
            "{rounds} rounds: open {:?}, close {:?} a port",
            opening / rounds / 2,
            closing / rounds / 2
        );
    });
}

/// Asserts that a context takes over a device that an earlier one left, each in its mode. A sender floods the device all the time,
/// and none of its frames may reach the kernel.
fn takes_over(before: XdpMode, after: XdpMode) {
    in_namespace(move || {
        veth("a", 1500, 1);
        let host = Tap::new("a", ETHERTYPE);
        let mut first = context();
        let old = first.open(on_in(before, "a", 0)).unwrap();
        // The first agent ends without closing anything.
        drop(old);
        drop(first);
        assert_eq!(index("hdanchor0"), 0, "the anchor went with its context");
        // The flood belongs to this namespace, and the thread stays in it.
        let near = Tap::new("ap", ETHERTYPE);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flood = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    near.try_send(&frame(3, 100));
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut second = context();
        let mut port = second.open(on_in(after, "a", 5)).unwrap();
        let mut pool = WorkerPool::new(WorkerId(0), second.pool().clone());
        for packet in receive(&mut port, &mut pool, SOON) {
            assert_eq!(packet.bytes(second.store()), frame(3, 100));
            pool.free_packet(packet);
        }
        assert!(port.stats().rx_packets > 0);
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        assert!(sent.load(Ordering::Relaxed) > 0);
        assert_eq!(host.receive(NEVER), None, "the kernel got a frame");
        let link = Netlink::open().unwrap().link("a").unwrap().unwrap();
        assert_eq!(
            (link.xdp_generic, link.xdp_program),
            (after == XdpMode::Generic, Some(second.program_id()))
        );
        second.close(port);
        drop(pool);
        assert_all_frames(&second);
        assert_ne!(index("hdanchor0"), 0);
        drop(second);
        assert_eq!(index("hdanchor0"), 0);
    });
}

#[test]
fn a_later_context_takes_the_devices_over() {
    for mode in MODES {
        takes_over(mode, mode);
    }
}

#[test]
fn a_later_context_changes_the_mode_and_no_packet_passes() {
    takes_over(XdpMode::Native, XdpMode::Generic);
    takes_over(XdpMode::Generic, XdpMode::Native);
}

/// A device without a program, as an agent leaves it that is killed in the middle of the change.
#[test]
fn between_two_programs_a_device_stays_closed() {
    in_namespace(|| {
        veth("a", 1500, 1);
        let (near, host) = (Tap::new("ap", ETHERTYPE), Tap::new("a", ETHERTYPE));
        let mut context = context();
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let port = context.open(on_in(mode, "a", 0)).unwrap();
            context.close(port);
        }
        ip("link set dev a xdpgeneric off");
        near.send(&frame(1, 100));
        assert_eq!(host.receive(NEVER), None);
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on("a", 0)).unwrap();
        near.send(&frame(2, 100));
        let packet = receive_one(&mut port, &mut pool);
        assert_eq!(packet.bytes(context.store()), frame(2, 100));
        pool.free_packet(packet);
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn a_program_that_was_removed_comes_back_in_the_ports_mode() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on_in(mode, "a", 0)).unwrap();
        ip("link set dev a xdp off");
        ip("link set dev a xdpgeneric off");
        context.attach_again("a", index("a")).unwrap();
        let link = Netlink::open().unwrap().link("a").unwrap().unwrap();
        assert_eq!(
            (link.xdp_program, link.xdp_generic),
            (Some(context.program_id()), mode == XdpMode::Generic)
        );
        let near = Tap::new("ap", ETHERTYPE);
        near.send(&frame(1, 100));
        let packet = receive_one(&mut port, &mut pool);
        assert_eq!(packet.bytes(context.store()), frame(1, 100));
        pool.free_packet(packet);
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn a_dead_agent_leaves_devices_closed_and_its_anchor_is_removed() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let (near, host) = (Tap::new("ap", ETHERTYPE), Tap::new("a", ETHERTYPE));
        near.send(&frame(0, 100));
        assert!(host.receive(SOON).is_some(), "without heddle the kernel gets it");
        let mut first = context();
        let port = first.open(on_in(mode, "a", 0)).unwrap();
        drop(port);
        drop(first);
        near.send(&frame(1, 100));
        assert_eq!(host.receive(NEVER), None, "dropped, not passed to the kernel");

        // An anchor of nobody, as kill -9 leaves it. A foreign process that holds a name like it changes nothing.
        ip("link add name hdanchor0 type veth peer name hdanchor0p");
        let foreign = SocketAddr::from_abstract_name("heddle/hdanchor0").unwrap();
        let _foreign = UnixDatagram::bind_addr(&foreign).unwrap();
        let left = index("hdanchor0");
        let mut next = context();
        assert!(index("hdanchor0") != left);
        let mut port = next.open(on_in(mode, "a", 0)).unwrap();
        let mut pool = WorkerPool::new(WorkerId(0), next.pool().clone());
        near.send(&frame(2, 100));
        let packet = receive_one(&mut port, &mut pool);
        assert_eq!(packet.bytes(next.store()), frame(2, 100));
        pool.free_packet(packet);
        // A closed port's device stays closed too.
        next.close(port);
        near.send(&frame(3, 100));
        assert_eq!(host.receive(NEVER), None);
        drop(pool);
        assert_all_frames(&next);
    });
}

#[test]
fn a_refused_port_has_a_reason_and_keeps_no_frames() {
    in_namespace(|| {
        veth("a", 1500, 1);
        let mut context = XdpContext::new(XdpConfig {
            frames: 512,
            max_pods: 1,
            other_ports: 1,
            working: 128,
            port_numbers: 8,
            ..XdpConfig::default()
        })
        .unwrap();
        let mut refused = |open: OpenPort, words: &str| {
            let error = context.open(open).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_all_frames(&context);
            error
        };
        // Names, indices, queues and numbers.
        refused(
            OpenPort {
                ifname: "nowhere".to_owned(),
                ..on("a", 0)
            },
            "not in this network namespace",
        );
        refused(
            OpenPort {
                ifindex: 9999,
                ..on("a", 0)
            },
            "not in this network namespace",
        );
        refused(
            OpenPort {
                ifname: "a-name-that-is-too-long".to_owned(),
                ..on("a", 0)
            },
            "not a device's name",
        );
        refused(OpenPort { queue: 3, ..on("a", 4) }, "no queue 3");
        refused(on("a", 8), "not below 8");
        refused(OpenPort { queue: 3, ..on("a", 2) }, "queue 0 is port -1");
        // Devices that cannot be used.
        ip("link set dev lo up");
        let error = refused(on("lo", 0), "must be veths");
        assert!(matches!(error, XdpError::NoNativeXdp { .. }));
        ip("link set dev a down");
        refused(on("a", 0), "ip link set dev a up");
        ip("link set dev a up");

        // A number that is in use, and one port more than configured. A closed port makes room.
        let first = context.open(on("a", 0)).unwrap();
        veth("b", 1500, 1);
        let error = context.open(on("b", 0)).unwrap_err();
        assert!(matches!(error, XdpError::PortOpen { port: PortId(0) }), "{error}");
        let second = context.open(on("b", 1)).unwrap();
        veth("c", 1500, 1);
        let error = context.open(on("c", 2)).unwrap_err();
        assert!(error.to_string().contains("raise maxPods"), "{error}");
        context.close(first);
        let third = context.open(on("c", 2)).unwrap();
        context.close(second);
        context.close(third);
        assert_all_frames(&context);

        // Without the anchor no socket can be bound.
        ip("link del dev hdanchor0");
        let error = context.open(on("a", 0)).unwrap_err();
        assert!(matches!(error, XdpError::AnchorLost { .. }), "{error}");
        assert_all_frames(&context);
    });
}

#[test]
fn the_error_of_a_thread_without_capabilities_names_them() {
    in_namespace(|| {
        // SAFETY: capset(2) for the calling thread: header (version 3, this thread) and two words of empty sets.
        let result = unsafe {
            let header: [u32; 2] = [0x2008_0522, 0];
            let data = [0u32; 6];
            libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr())
        };
        assert_eq!(result, 0);
        let error = XdpContext::new(XdpConfig::default()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("CAP_NET_ADMIN") && text.contains("CAP_NET_RAW") && text.contains("CAP_BPF"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    });
}

/// A port can be moved to another thread, and so can its packets.
#[test]
fn ports_and_packets_can_be_handed_over() {
    fn send<T: Send>() {}
    send::<XdpPort>();
    send::<Packet>();
    send::<XdpContext>();
}
