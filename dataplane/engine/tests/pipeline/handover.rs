//! Hand-over, TX rings and ports: full lanes, full rings, ports that are added and removed, workers that stop.

use heddle_engine::PortRole;
use heddle_port::PortId;
use heddle_tables::{Endpoint, WorkerId};

use crate::tables::{A, B, C, HOST, worker_of};
use crate::world::{Options, World};

fn two_workers(lane: u32) -> World {
    World::new(Options {
        workers: 2,
        lane,
        ..Options::default()
    })
}

#[test]
fn a_packet_for_another_workers_port_is_handed_over() {
    let mut w = two_workers(8);
    w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
    w.pass(&B, &A, &B.to(A.v4()).udp(53, 1000, b"y"));
    for (worker, other) in [(0, 1), (1, 0)] {
        let (mine, theirs) = (
            w.node.handles()[worker].counters().totals(),
            w.node.handles()[other].counters().totals(),
        );
        assert_eq!((mine.handed_over, theirs.taken_over), (1, 1));
    }
    // To the host each worker has a queue of its own.
    w.pass(&B, &HOST, &B.to(HOST.v4()).udp(53, 1000, b"y"));
    assert_eq!(w.node.handles()[1].counters().totals().handed_over, 1);
}

#[test]
fn full_lanes_drop_with_their_reason_and_keep_the_order_of_the_rest() {
    // One port gets half of the frames.
    let mut w = two_workers(4);
    for n in 0..5 {
        w.push(&A, &A.to(B.v4()).udp(1000, 53, &[n]));
    }
    // Worker 1 does not come to its turn meanwhile.
    w.turn(0);
    w.changed(&["a rx 5", "a dropped handover-queue-full 3"]);
    w.step();
    for n in 0..2 {
        assert!(w.pop(&B).ends_with(&[n]));
    }
    w.changed(&["a forwarded 2", "b tx 2"]);
}

#[test]
fn a_flood_of_large_packets_to_a_busy_worker_leaves_frames_and_room_to_others() {
    const LARGE: usize = 60_000;
    for workers in 2..=3 {
        let mut w = World::new(Options {
            workers,
            lane: 256,
            ..Options::default()
        });
        // Each packet has 16 frames, so a burst of 64 is the whole store, and 56 packets find room beside the lanes.
        for _ in 0..120 {
            w.push(&A, &A.to(B.v4()).udp(1000, 53, &[0xaa; LARGE]));
        }
        // Worker 1, which owns the port of B, does not come to its turn.
        w.turn(0);
        w.turn(0);
        w.changed(&["a rx 120", "a dropped handover-queue-full 112"]);
        assert_eq!(
            w.node.shared().store().outstanding(),
            128,
            "eight packets are in the lane"
        );
        // The port of A still receives.
        w.push(&HOST, &HOST.to(A.v4()).udp(1000, 53, b"to a"));
        w.turn(0);
        w.collect();
        assert!(w.pop(&A).ends_with(b"to a"));
        w.changed(&["host rx 1", "host forwarded 1", "a tx 1"]);
        // Packets of C find room, small and large.
        let owner = worker_of(&C, workers).index();
        w.push(&C, &C.to(B.v4()).udp(1000, 53, b"small"));
        for _ in 0..4 {
            w.push(&C, &C.to(B.v4()).udp(1000, 53, &[0xcc; LARGE]));
        }
        w.turn(owner);
        w.changed(&["c rx 5"]);
        w.step();
        let arrived: Vec<u8> = (0..13).filter_map(|_| w.pop(&B).last().copied()).collect();
        for (last, packets) in [(0xaa, 8), (0xcc, 4), (b'l', 1)] {
            assert_eq!(arrived.iter().filter(|n| **n == last).count(), packets);
        }
        w.changed(&["a forwarded 8", "c forwarded 5", "b tx 13"]);
        // Afterwards the lanes are whole again.
        for _ in 0..8 {
            w.push(&A, &A.to(B.v4()).udp(1000, 53, &[0xaa; LARGE]));
        }
        w.turn(0);
        w.step();
        (0..8).for_each(|_| drop(w.pop(&B)));
        w.changed(&["a rx 8", "a forwarded 8", "b tx 8"]);
    }
}

#[test]
fn a_full_transmit_ring_drops_with_its_reason() {
    for workers in 1..=2 {
        let mut w = World::new(Options {
            workers,
            ..Options::default()
        });
        w.wire(&B).set_tx_room(0);
        for n in 0..5 {
            w.push(&A, &A.to(B.v4()).udp(1000, 53, &[n]));
        }
        w.step();
        w.changed(&["a rx 5", "a dropped tx-ring-full 5"]);
        // A ring with room for two is drained once in between.
        w.wire(&B).set_tx_room(2);
        for n in 0..5 {
            w.push(&A, &A.to(B.v4()).udp(1000, 53, &[n]));
        }
        w.step();
        for n in 0..4 {
            assert!(w.pop(&B).ends_with(&[n]));
        }
        w.changed(&["a rx 5", "a forwarded 4", "b tx 4", "a dropped tx-ring-full 1"]);
    }
}

#[test]
fn an_answer_that_cannot_leave_is_a_drop_and_no_answer() {
    let mut w = World::new(Options::default());
    w.wire(&A).set_tx_room(0);
    w.dropped(
        &A,
        &A.to("10.96.0.77".parse::<std::net::IpAddr>().unwrap().into())
            .ttl(1)
            .udp(1, 2, b"x"),
        "tx-ring-full",
    );
}

#[test]
fn a_long_burst_leaves_whole() {
    for workers in 1..=3 {
        let mut w = World::new(Options {
            workers,
            lane: 1024,
            ..Options::default()
        });
        for n in 0..200 {
            w.push(&A, &A.to(B.v4()).udp(1000, 53, &[n]));
            w.push(&C, &C.to(B.v4()).udp(1000, 53, &[n]));
        }
        w.step();
        for _ in 0..400 {
            w.pop(&B);
        }
        w.changed(&["a rx 200", "a forwarded 200", "c rx 200", "c forwarded 200", "b tx 400"]);
    }
}

#[test]
fn a_port_that_is_removed_comes_back_and_what_is_meant_for_it_is_dropped() {
    for workers in 1..=2 {
        let mut w = World::new(Options {
            workers,
            ..Options::default()
        });
        let owner = usize::from(workers) - 1;
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        let removed = w.node.handles()[owner].remove_port(B.port).unwrap();
        w.step();
        let port = removed.recv().unwrap().unwrap();
        w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "port-closed");
        // It can be given back.
        let added = w.node.handles()[owner]
            .add_port(port, PortRole::Pod(B.endpoint))
            .unwrap();
        w.step();
        added.recv().unwrap().unwrap();
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
    }
}

#[test]
fn packets_in_a_lane_leave_by_a_port_that_is_being_removed() {
    let mut w = two_workers(8);
    w.push(&A, &A.to(B.v4()).udp(1000, 53, b"x"));
    w.turn(0);
    let removed = w.node.handles()[1].remove_port(B.port).unwrap();
    w.step();
    let port = removed.recv().unwrap();
    assert!(port.is_some());
    w.pop(&B);
    w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
}

#[test]
fn a_port_is_refused_whose_number_is_taken_or_too_great() {
    let mut w = World::new(Options::default());
    let (port, _wire) = heddle_port::MemPort::new(PortId(99), w.node.shared().store());
    let refused = w.node.handles()[0].add_port(port, PortRole::Pod(B.endpoint)).unwrap();
    w.step();
    let error = refused.recv().unwrap().unwrap_err().to_string();
    assert_eq!(
        error,
        "port 99 does not fit: this worker was made for ports 0 to 15; raise maxPods"
    );
    assert!(w.node.handles()[0].remove_port(PortId(99)).is_ok());
    w.step();
}

#[test]
fn a_worker_that_has_stopped_gets_nothing_more() {
    let mut w = two_workers(8);
    w.push(&A, &A.to(B.v4()).udp(1000, 53, b"1"));
    w.turn(0);
    // One packet is in the lane of worker 1, which stops and never turns again.
    w.node.handles()[1].stop();
    let stopped = w.node.workers_mut().remove(1);
    let mut pool = heddle_port::WorkerPool::new(WorkerId(98), w.node.shared().clone());
    for (port, _) in stopped.finish() {
        port.close(&mut pool);
    }
    drop(pool);
    w.changed(&["a rx 1", "a dropped port-closed 1"]);
    w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"2"), "port-closed");
}

#[test]
fn an_endpoint_without_a_port_yet_is_closed() {
    let mut w = World::new(Options::default());
    let mut e: Endpoint = w.tables.current().endpoint(B.endpoint).unwrap().clone();
    e.port = PortId(15);
    w.tables.set_endpoint(e.clone());
    w.publish();
    w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "port-closed");
    e.worker = WorkerId(7);
    w.tables.set_endpoint(e);
    w.publish();
    w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "port-closed");
}

#[test]
fn a_port_whose_endpoint_is_not_published_forwards_nothing() {
    let mut w = World::new(Options::default());
    w.tables.remove_endpoint(A.endpoint);
    w.publish();
    w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "policy-not-ready");
}
