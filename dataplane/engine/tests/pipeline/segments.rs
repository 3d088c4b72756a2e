//! TCP packets that are larger than their path, because the sender's kernel leaves segmentation to the device.

use std::sync::Arc;

use heddle_port::PortId;
use heddle_tables::{EndpointPolicy, Generation};
use heddle_wire::parse::quoted;
use heddle_wire::testing::ip;
use heddle_wire::{Ip, L3, TcpFlags, parse, tcp};

use crate::large::pattern;
use crate::nodes::{self, N1, N3, Other};
use crate::nodes_errors::{TOO_BIG, error};
use crate::services::serve;
use crate::tables::{A, B, HOST, OVERLAY_MTU, Party, UPLINK, endpoint, worker_of};
use crate::world::{Options, World};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const PSH: TcpFlags = TcpFlags::PSH;

/// Runs a test on nodes with one, two and three workers, whose pods and host send large segments.
fn worlds(test: impl Fn(&mut World)) {
    for workers in 1..=3 {
        let mut world = World::new(Options {
            workers,
            large_segments: true,
            ..Options::default()
        });
        test(&mut world);
    }
}

/// Opens a connection from A to port 80 of `to`, whose answers come in at `there` from `answers`. Both ends announce an MSS; 0: none.
fn open(w: &mut World, to: Ip, there: &Party, answers: Ip, mss: [u16; 2]) {
    let packet = A.to(to);
    let packet = if mss[0] == 0 { packet } else { packet.mss(mss[0]) };
    w.pass(&A, there, &packet.tcp(1000, 80, SYN, 1, 0, b""));
    let packet = heddle_wire::testing::Packet::new(there.mac, heddle_wire::MacAddr::GATEWAY, answers, A.ip(to));
    let packet = if mss[1] == 0 { packet } else { packet.mss(mss[1]) };
    let sport = if answers == to { 80 } else { 8080 };
    w.pass(there, &A, &packet.tcp(sport, 1000, SYN | ACK, 8, 2, b""));
}

/// Opens a connection from A to port 80 of a node's pod, by the tunnel. Both ends announce an MSS; the pod none if it is 0.
fn open_by_tunnel(w: &mut World, node: &Other, own: Ip, mss: u16) {
    let syn = A.to(node.pod(own)).mss(60_000).tcp(1000, 80, SYN, 1, 0, b"");
    w.sent(&A, node, &syn);
    let answer = node.pod_to(own);
    let answer = if mss == 0 { answer } else { answer.mss(mss) };
    w.received(node, &A, &answer.tcp(80, 1000, SYN | ACK, 8, 2, b""));
}

/// Lets the workers turn, and asserts that this data leaves in the tunnel to a node, in segments with `size` octets each. Returns their
/// number.
fn leaves_in_segments(w: &mut World, node: &Other, data: &[u8], size: usize) -> usize {
    w.step();
    let count = data.len().div_ceil(size);
    let outer = popped(w, &UPLINK, count);
    let inner: Vec<Vec<u8>> = outer.iter().map(|frame| nodes::opened(frame, node).0).collect();
    assert!(joined(&inner, size, 2) == data);
    count
}

/// Puts the data of segments together. Asserts that they follow each other and are not larger than `size` octets of data.
fn joined(segments: &[Vec<u8>], size: usize, first: u32) -> Vec<u8> {
    let mut data = Vec::new();
    for (n, segment) in segments.iter().enumerate() {
        let p = parse(segment, segment.len()).unwrap();
        assert_eq!(
            tcp::sequence(segment, &p).unwrap(),
            first.wrapping_add(data.len() as u32)
        );
        let is_last = n + 1 == segments.len();
        assert_eq!(p.tcp_flags.contains(PSH), is_last);
        assert!(
            p.payload_len() == size || is_last && p.payload_len() <= size,
            "{} octets",
            p.payload_len()
        );
        data.extend_from_slice(&segment[p.payload()..p.end()]);
    }
    data
}

fn popped(w: &mut World, party: &Party, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| w.pop(party)).collect()
}

#[test]
fn between_pods_a_large_segment_stays_whole_and_keeps_its_size() {
    worlds(|w| {
        serve(w, &[&B]);
        for (to, seen) in [
            (B.v4(), B.v4()),
            (B.v6(), B.v6()),
            (ip("10.96.0.10"), B.v4()),
            (ip("fd96::10"), B.v6()),
        ] {
            let headers = if to.is_v4() { 40 } else { 60 };
            // The receiver has a small MTU on its routes, the sender has not.
            let port = if to == seen { 80 } else { 8080 };
            open(w, to, &B, seen, [60_000, 1500 - headers]);
            let data = pattern(50_000);
            let (out, p) = w.pass(&A, &B, &A.to(to).partial().tcp(1000, 80, ACK | PSH, 2, 9, &data));
            assert!(out[p.payload()..p.end()] == data);
            assert_eq!((p.dst, p.dport), (seen, port));
            assert_eq!(w.wire(&B).take_segment_sizes(), [1500 - headers]);
            // The other direction has segments of 60,000 octets, so it has none to cut.
            let packet = heddle_wire::testing::Packet::new(B.mac, heddle_wire::MacAddr::GATEWAY, seen, A.ip(to));
            w.pass(&B, &A, &packet.partial().tcp(port, 1000, ACK | PSH, 9, 50_002, &data));
            assert!(w.wire(&A).take_segment_sizes().is_empty());
            w.forget_connections();
        }
    });
}

#[test]
fn to_the_outside_the_kernel_gets_it_whole_with_the_size_of_the_uplink() {
    worlds(|w| {
        for (to, size) in [(ip("198.51.100.7"), 1460), (ip("2001:db8:ffff::7"), 1440)] {
            open(w, to, &HOST, to, [60_000, 60_000]);
            let data = pattern(30_000);
            let (out, p) = w.pass(&A, &HOST, &A.to(to).partial().tcp(1000, 80, ACK | PSH, 2, 9, &data));
            assert!(out[p.payload()..p.end()] == data);
            // The host port has a queue for each worker.
            let queues = (0..u16::from(w.options.workers)).map(|queue| w.node.wire(PortId(queue)).unwrap());
            let sizes: Vec<u16> = queues.flat_map(|queue| queue.take_segment_sizes()).collect();
            assert_eq!(sizes, [size]);
        }
    });
}

#[test]
fn by_a_tunnel_it_leaves_in_segments_that_fill_the_path() {
    worlds(|w| {
        for (node, own) in [(N1, A.v4()), (N1, A.v6()), (N3, A.v4()), (N3, A.v6())] {
            let there = node.pod(own);
            // N3 is reached over IPv6, whose header is longer.
            let outer = if node.address() == N3.address() { 20 } else { 0 };
            let headers = if own.is_v4() { 40 } else { 60 };
            let size = usize::from(OVERLAY_MTU) - outer - headers;
            open_by_tunnel(w, &node, own, 60_000);
            let data = pattern(30_000);
            w.pushed_split(&A, &A.to(there).partial().tcp(1000, 80, ACK | PSH, 2, 9, &data), 3000);
            let count = leaves_in_segments(w, &node, &data, size);
            w.changed(&[
                "a rx 1",
                "a forwarded 1",
                &format!("a fragments {}", count - 1),
                &format!("uplink tx {count}"),
            ]);
        }
    });
}

#[test]
fn options_count_and_the_receivers_mss_is_obeyed_within_bounds() {
    worlds(|w| {
        let there = N1.pod(A.v4());
        let path = OVERLAY_MTU - 40;
        // The receiver's MSS, and the size without options. Without an option it is the default, and a smaller one is not taken.
        for (mss, size) in [(1000, 1000), (u16::MAX, path), (48, 536), (1, 536), (0, 536)] {
            open_by_tunnel(w, &N1, A.v4(), mss);
            for (options, less) in [(&[][..], 0), (&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8][..], 12)] {
                let data = pattern(20_000);
                let packet = A.to(there).partial().tcp_options(options);
                w.push(&A, &packet.tcp(1000, 80, ACK | PSH, 2, 9, &data));
                leaves_in_segments(w, &N1, &data, usize::from(size - less));
                w.discard_changes();
            }
            w.forget_connections();
        }
    });
}

#[test]
fn a_path_that_shrinks_under_a_connection_shrinks_its_segments() {
    worlds(|w| {
        open(w, B.v4(), &B, B.v4(), [60_000, 60_000]);
        let data = pattern(20_000);
        // A limit does not rise again, because it may be the receiver's.
        for (generation, mtu, sizes) in [(2, 1400, [1360]), (3, 1300, [1260]), (4, 1500, [1260])] {
            let open = Some(Arc::new(EndpointPolicy::open()));
            let mut small = endpoint(&B, worker_of(&B, w.options.workers), Generation(generation), open);
            small.mtu = mtu;
            w.tables.set_endpoint(small);
            w.publish();
            w.pass(&A, &B, &A.to(B.v4()).partial().tcp(1000, 80, ACK | PSH, 2, 9, &data));
            assert_eq!(w.wire(&B).take_segment_sizes(), sizes);
        }
    });
}

#[test]
fn a_smaller_path_that_a_router_reports_makes_the_segments_smaller() {
    worlds(|w| {
        for own in [A.v4(), A.v6()] {
            let there = N1.pod(own);
            let headers = if own.is_v4() { 40 } else { 60 };
            open_by_tunnel(w, &N1, own, 60_000);
            let data = pattern(20_000);
            let frame = A.to(there).partial().tcp(1000, 80, ACK | PSH, 2, 9, &data);
            // The MTU of the network between the nodes, and the size of an inner packet then. What is no news changes nothing.
            for (mtu, size) in [(0, OVERLAY_MTU), (1400, 1350), (1450, 1350), (1340, 1290)] {
                if mtu > 0 {
                    w.push(&A, &frame);
                    w.step();
                    let outer = w.pop(&UPLINK);
                    w.discard_outputs();
                    w.push(&UPLINK, &error(&outer, TOO_BIG, mtu));
                    w.step();
                    w.discard_outputs();
                    w.discard_changes();
                }
                w.push(&A, &frame);
                leaves_in_segments(w, &N1, &data, usize::from(size) - headers);
                w.discard_changes();
            }
        }
    });
}

#[test]
fn what_is_no_large_segment_is_too_big() {
    worlds(|w| {
        let there = N1.pod(A.v4());
        open_by_tunnel(w, &N1, A.v4(), 60_000);
        let data = pattern(3000);
        for frame in [
            // Its checksum is finished: the sender has made it so large itself.
            A.to(there).tcp(1000, 80, ACK, 2, 9, &data),
            A.to(there).partial().tcp(1000, 80, ACK | TcpFlags::URG, 2, 9, &data),
            A.to(there).partial().udp(1000, 53, &data),
        ] {
            let (out, p) = w.answered(&A, &frame, "too-big");
            assert_eq!(quoted(&out, &p).unwrap().dst, there);
        }
    });
    // Ports whose peers' kernels cut segments themselves.
    let mut w = World::new(Options::default());
    let there = N1.pod(A.v4());
    w.sent(&A, &N1, &A.to(there).mss(60_000).tcp(1000, 80, SYN, 1, 0, b""));
    w.answered(
        &A,
        &A.to(there).partial().tcp(1000, 80, ACK, 2, 9, &pattern(3000)),
        "too-big",
    );
}

#[test]
fn bad_large_segments_are_dropped_and_no_frame_is_lost() {
    worlds(|w| {
        let there = N1.pod(A.v4());
        open_by_tunnel(w, &N1, A.v4(), 60_000);
        let frame = A.to(there).partial().tcp(1000, 80, ACK, 2, 9, &pattern(20_000));
        // The length in the IP header is longer than the frame.
        let mut forged = frame.clone();
        forged.truncate(10_000);
        w.push(&A, &forged);
        w.step();
        let changes = w.changes();
        assert!(
            changes.iter().any(|change| change.starts_with("a dropped ")),
            "{changes:?}"
        );
        // The TCP header straddles two frames.
        let p = parse(&frame, frame.len()).unwrap();
        assert_eq!(p.l3, L3::V4);
        let (front, rest) = frame.split_at(p.l4() + 8);
        w.pushed_elsewhere(&A, frame.len());
        w.wire(&A).push_parts(&[front, rest]);
        w.step();
        let changes = w.changes();
        assert!(
            changes.iter().any(|change| change.starts_with("a dropped ")),
            "{changes:?}"
        );
    });
}
