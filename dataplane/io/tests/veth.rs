//! Packets through AF_XDP ports on real veths, each test in a network namespace of its own. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod harness;

use std::time::{Duration, Instant};

use harness::*;
use heddle_io::{OpenPort, XdpError, XdpPort};
use heddle_port::{FillBudget, PacketVec, Port, WorkerId, WorkerPool};

/// Receives packets from one port and sends them by another.
fn forward(from: &mut XdpPort, to: &mut XdpPort, pool: &mut WorkerPool) {
    let packets = receive(from, pool, SOON);
    assert!(!packets.is_empty());
    send(to, pool, packets);
}

#[test]
fn a_frame_goes_from_one_veth_to_another() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        veth("b", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut a = context.open(on_in(mode, "a", 3)).unwrap();
        let mut b = context.open(on_in(mode, "b", 4)).unwrap();
        let (near, far) = (Tap::new("ap", ETHERTYPE), Tap::new("bp", ETHERTYPE));
        for len in [60, 1514] {
            near.send(&frame(7, len));
            forward(&mut a, &mut b, &mut pool);
            assert_eq!(far.receive(SOON).unwrap(), frame(7, len));
        }
        let (rx, tx) = (a.stats(), b.stats());
        assert_eq!((rx.rx_packets, rx.rx_bytes, rx.rx_errors), (2, 1574, 0));
        assert_eq!(
            (tx.tx_packets, tx.tx_bytes, tx.tx_stalls, tx.tx_pending),
            (2, 1574, 0, 0)
        );
        assert_eq!((rx.fill, rx.fill_target), (FillBudget::FLOOR, FillBudget::FLOOR));
        assert_eq!(rx.kernel.unwrap().rx_dropped, 0);
        context.close(a);
        context.close(b);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn a_packet_whose_front_has_moved_is_sent_from_there() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut a = context.open(on_in(mode, "a", 0)).unwrap();
        let far = Tap::new("ap", ETHERTYPE);
        far.send(&frame(1, 500));
        let mut packet = receive_one(&mut a, &mut pool);
        let store = context.store();
        assert!(packet.shrink_front(store, 100) && packet.grow_front(store, 150));
        packet.bytes_mut(store).copy_from_slice(&frame(2, 550));
        send(&mut a, &mut pool, PacketVec::from_iter([packet]));
        assert_eq!(far.receive(SOON).unwrap(), frame(2, 550));
        context.close(a);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn more_packets_than_one_sendto_takes_all_leave() {
    in_namespace(|| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut a = context.open(on("a", 0)).unwrap();
        let far = Tap::new("ap", ETHERTYPE);
        for burst in 0..3 {
            let packets: PacketVec = (0..64)
                .map(|i| pool.packet(&frame(burst * 64 + i, 100)).unwrap())
                .collect();
            send(&mut a, &mut pool, packets);
        }
        for i in 0..192 {
            assert_eq!(far.receive(SOON).unwrap(), frame(i, 100));
        }
        assert_eq!(far.receive(Duration::ZERO), None);
        assert_eq!(a.stats().tx_packets, 192);
        context.close(a);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn large_packets_come_and_go_over_many_frames() {
    in_each_mode(|mode| {
        veth("a", 61_000, 1);
        veth("b", 61_000, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut a = context.open(on_in(mode, "a", 0)).unwrap();
        let mut b = context.open(on_in(mode, "b", 1)).unwrap();
        let (near, far) = (Tap::new("ap", ETHERTYPE), Tap::new("bp", ETHERTYPE));
        for (len, frames) in [(3840, 1), (3841, 2), (61_014, 16)] {
            near.send(&frame(len, len as usize));
            let packet = receive_one(&mut a, &mut pool);
            assert_eq!((packet.len(), packet.frames()), (len, frames));
            assert_eq!(packet.to_vec(context.store()), frame(len, len as usize));
            send(&mut b, &mut pool, PacketVec::from_iter([packet]));
            assert_eq!(far.receive(SOON).unwrap(), frame(len, len as usize));
        }
        // Several at once: the ring grows, and nothing is torn.
        let mut got = 0;
        for round in 0..20 {
            let seeds = round * 3..round * 3 + 3;
            seeds.clone().for_each(|seed| near.send(&frame(seed, 61_014)));
            let until = Instant::now() + SOON;
            while got < (round + 1) * 3 && Instant::now() < until {
                let packets = receive(&mut a, &mut pool, SOON);
                for packet in &packets {
                    assert_eq!(packet.to_vec(context.store()), frame(got, 61_014));
                    got += 1;
                }
                send(&mut b, &mut pool, packets);
            }
            seeds.for_each(|seed| assert_eq!(far.receive(SOON).unwrap(), frame(seed, 61_014)));
        }
        let stats = a.stats();
        assert_eq!((got, stats.rx_errors), (60, 0));
        assert!(stats.fill_target > FillBudget::FLOOR, "{stats:?}");
        context.close(a);
        context.close(b);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn two_queues_are_two_ports() {
    in_namespace(|| {
        veth("a", 1500, 2);
        let mut context = context();
        let mut pools = [
            WorkerPool::new(WorkerId(0), context.pool().clone()),
            WorkerPool::new(WorkerId(1), context.pool().clone()),
        ];
        let open = |queue: u32, port: u16| OpenPort { queue, ..on("a", port) };
        let mut ports = [context.open(open(0, 6)).unwrap(), context.open(open(1, 7)).unwrap()];
        let refused = context.open(open(2, 9)).unwrap_err();
        assert!(matches!(refused, XdpError::PortOrder { base: 6, .. }), "{refused}");

        const IPV4: u16 = 0x0800;
        let near = Tap::new("ap", IPV4);
        let datagram = |source: u8| {
            let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
            frame.extend_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            frame.extend_from_slice(&[4, source, 0, 53, 0, 8, 0, 0]);
            frame
        };
        let mut counts = [0, 0];
        let until = Instant::now() + SOON;
        for source in 0..32 {
            near.send(&datagram(source));
        }
        while counts.iter().sum::<usize>() < 32 && Instant::now() < until {
            for (i, port) in ports.iter_mut().enumerate() {
                let packets = receive(port, &mut pools[i], Duration::from_millis(1));
                counts[i] += packets.len();
                packets.into_iter().for_each(|packet| pools[i].free_packet(packet));
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), 32);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");

        // One queue is closed, and the other one still receives.
        let [first, mut second] = ports;
        context.close(first);
        for source in 0..32 {
            near.send(&datagram(source));
        }
        let mut still = 0;
        while still < counts[1] {
            let packets = receive(&mut second, &mut pools[1], SOON);
            assert!(!packets.is_empty(), "{still} of {}", counts[1]);
            still += packets.len();
            packets.into_iter().for_each(|packet| pools[1].free_packet(packet));
        }
        context.close(second);
        drop(pools);
        assert_all_frames(&context);
    });
}

#[test]
fn a_slow_receiver_leaves_packets_with_their_sender() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut a = context.open(on_in(mode, "a", 0)).unwrap();
        // More packets than the TX ring has room for, without a flush in between.
        let mut taken = 0;
        let left = loop {
            let mut packets: PacketVec = (0..64).map_while(|_| pool.packet(&frame(0, 60))).collect();
            let before = packets.len();
            a.tx(&mut pool, &mut packets);
            taken += before - packets.len();
            if !packets.is_empty() {
                break packets;
            }
        };
        assert_eq!((taken, a.stats().tx_pending, a.unsent()), (1024, 1024, true));
        a.flush(&mut pool);
        assert!(!a.unsent());
        send(&mut a, &mut pool, left);
        context.close(a);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn a_port_whose_device_is_gone_neither_spins_nor_keeps_its_frames() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut a = context.open(on_in(mode, "a", 0)).unwrap();
        ip("link set dev a down");
        let mut packets: PacketVec = (0..10).map(|i| pool.packet(&frame(i, 60)).unwrap()).collect();
        a.tx(&mut pool, &mut packets);
        a.flush(&mut pool);
        assert_eq!((a.unsent(), a.stats().tx_pending, a.stats().tx_stalls), (false, 10, 1));
        ip("link set dev a up");
        a.flush(&mut pool);
        assert_eq!((a.unsent(), a.stats().tx_stalls), (false, 1));

        ip("link del dev a");
        let packet = pool.packet(&frame(0, 60)).unwrap();
        a.tx(&mut pool, &mut PacketVec::from_iter([packet]));
        a.flush(&mut pool);
        assert!(!a.unsent());
        // No packet arrives and poll(2) sleeps, so a worker does not spin until the port is removed.
        let start = Instant::now();
        assert_eq!(receive(&mut a, &mut pool, NEVER).len(), 0);
        assert!(start.elapsed() >= NEVER);
        assert_eq!(polls_at_once(&a), 0);
        context.close(a);
        drop(pool);
        assert_all_frames(&context);
    });
}

/// Returns the result of poll(2) for the port without waiting.
fn polls_at_once(port: &XdpPort) -> i32 {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&port.wait_fd().unwrap());
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) }
}

#[test]
fn a_worker_forwards_while_control_opens_and_closes_other_ports() {
    /// The least packets and rounds. The traffic goes on until both are reached, however slow the machine is.
    const PACKETS: u32 = 20_000;
    const ROUNDS: u32 = 4;
    /// Only a test that hangs takes so long.
    const AT_MOST: Duration = Duration::from_secs(300);
    in_each_mode(|mode| {
        for name in ["a", "b", "c"] {
            veth(name, 1500, 1);
        }
        let mut context = context();
        let (mut a, mut b) = (
            context.open(on_in(mode, "a", 0)).unwrap(),
            context.open(on_in(mode, "b", 1)).unwrap(),
        );
        let (near, far, third) = (
            Tap::new("ap", ETHERTYPE),
            Tap::new("bp", ETHERTYPE),
            Tap::new("cp", ETHERTYPE),
        );
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (mut pool, stopped) = (
            WorkerPool::new(WorkerId(0), context.pool().clone()),
            std::sync::Arc::clone(&stop),
        );
        let worker = std::thread::spawn(move || {
            let mut packets = PacketVec::new();
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                packets.extend(receive(&mut a, &mut pool, Duration::from_millis(5)));
                b.tx(&mut pool, &mut packets);
                b.flush(&mut pool);
                packets.drain(..).for_each(|packet| pool.free_packet(packet));
            }
            (a, b)
        });
        let rounds = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let (until, done) = (Instant::now() + AT_MOST, std::sync::Arc::clone(&rounds));
        // One frame at a time, so that none is dropped on the way for lack of room.
        let traffic = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < PACKETS || done.load(std::sync::atomic::Ordering::Relaxed) < ROUNDS {
                near.send(&frame(sent, 100));
                let left = until.saturating_duration_since(Instant::now());
                assert_eq!(far.receive(left).unwrap(), frame(sent, 100));
                sent += 1;
            }
            sent
        });
        while !traffic.is_finished() {
            let c = context.open(on_in(mode, "c", 2)).unwrap();
            (0..20).for_each(|i| third.send(&frame(i, 100)));
            context.close(c);
            rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        let sent = traffic.join().unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (a, b) = worker.join().unwrap();
        assert_eq!(
            (a.stats().rx_packets, b.stats().tx_packets),
            (u64::from(sent), u64::from(sent))
        );
        assert!(sent >= PACKETS, "{sent}");
        let rounds = rounds.load(std::sync::atomic::Ordering::Relaxed);
        assert!(rounds > 3, "{rounds}");
        context.close(a);
        context.close(b);
        assert_all_frames(&context);
    });
}
