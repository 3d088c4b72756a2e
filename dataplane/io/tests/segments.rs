//! Large TCP segments at AF_XDP ports on real veths, each test in a network namespace of its own. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod harness;

use std::fs;
use std::time::Duration;

use harness::segments::{ACK, CWR, Header, SegmentTap, tcp};
use harness::*;
use heddle_io::{SegmentCounts, XdpContext, XdpMode, XdpPort};
use heddle_linux::{Netlink, ethtool};
use heddle_port::{Packet, PacketVec, Port, PortId, WorkerId, WorkerPool};
use heddle_wire::{checksum, parse};

/// The payload of a segment that is as large as pods' interfaces take.
const LARGE: usize = 60_000;
/// The segment size at MTU 1500 with timestamps, of IPv6.
const MSS: u16 = 1428;

fn counts(context: &XdpContext) -> SegmentCounts {
    context.observers().view(PortId(0)).unwrap().segments.unwrap()
}

/// Makes a packet of these bytes with a segment size.
fn segment(pool: &mut WorkerPool, bytes: &[u8], size: u16) -> Packet {
    let mut packet = pool.packet(bytes).unwrap();
    packet.set_segment_size(size);
    packet
}

#[test]
fn in_generic_mode_a_large_segment_arrives_whole_and_in_native_mode_cut() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on_in(mode, "a", 0)).unwrap();
        let is_generic = mode == XdpMode::Generic;
        assert_eq!(port.capabilities().rx_large_segments, is_generic);
        let near = SegmentTap::new("ap");
        for v6 in [false, true] {
            let frame = tcp(v6, ACK, 3, LARGE);
            near.send(Header::of(v6, false, MSS), &frame);
            let mut got = Vec::new();
            let header = if v6 { 86 } else { 66 };
            while got.len() < LARGE {
                let packets = receive(&mut port, &mut pool, SOON);
                assert!(!packets.is_empty(), "{} of {LARGE} octets", got.len());
                for packet in packets {
                    let bytes = packet.to_vec(context.store());
                    if is_generic {
                        assert_eq!((bytes == frame, packet.frames()), (true, 16));
                    } else {
                        assert!(bytes.len() <= 1514, "{}", bytes.len());
                    }
                    got.extend_from_slice(&bytes[header..]);
                    pool.free_packet(packet);
                }
            }
            assert!(got == frame[header..], "the payload is the same");
        }
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn a_segment_keeps_its_size_and_an_unfinished_checksum() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on_in(mode, "a", 0)).unwrap();
        assert!(port.capabilities().tx_large_segments);
        let far = SegmentTap::new("ap");
        for (v6, flags) in [(false, ACK), (true, ACK), (false, ACK | CWR), (true, ACK | CWR)] {
            let frame = tcp(v6, flags, 5, LARGE);
            // A checksum of the sender that is finished, or wrong, is replaced.
            let mut sent = frame.clone();
            sent[if v6 { 70 } else { 50 }] ^= 0x55;
            let packet = segment(&mut pool, &sent, MSS);
            send(&mut port, &mut pool, PacketVec::from_iter([packet]));
            let (header, got) = far.receive(SOON).unwrap();
            let expected = Header::of(v6, flags & CWR != 0, MSS);
            // The kernel fills `hdr_len` with the length of the linear part.
            assert_eq!(
                Header {
                    hdr_len: expected.hdr_len,
                    ..header
                },
                expected
            );
            assert!(got == frame);
        }
        // One that is not larger than its size has none.
        let frame = tcp(false, ACK, 6, usize::from(MSS));
        let packet = segment(&mut pool, &frame, MSS);
        send(&mut port, &mut pool, PacketVec::from_iter([packet]));
        let (header, got) = far.receive(SOON).unwrap();
        assert_eq!((header.gso_type, header.gso_size, got == frame), (0, 0, true));
        assert_eq!(
            counts(&context),
            SegmentCounts {
                sent: 5,
                ..SegmentCounts::default()
            }
        );
        assert_eq!((port.stats().tx_packets, port.stats().tx_stalls), (5, 0));
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

/// A receiver that cannot take large segments, such as one that forwards into a network with a small MTU.
#[test]
fn the_kernel_cuts_a_segment_for_a_receiver_that_needs_it() {
    in_namespace(|| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on_in(XdpMode::Generic, "a", 0)).unwrap();
        let link = Netlink::open().unwrap().link("a").unwrap().unwrap();
        ethtool::switch_off(
            &link,
            &["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-checksum-ip-generic"],
        )
        .unwrap();
        let far = SegmentTap::new("ap");
        for v6 in [false, true] {
            let frame = tcp(v6, ACK, 9, LARGE);
            let packet = segment(&mut pool, &frame, MSS);
            send(&mut port, &mut pool, PacketVec::from_iter([packet]));
            let headers = if v6 { 86 } else { 66 };
            let mut payload = Vec::new();
            while payload.len() < LARGE {
                let (_, piece) = far.receive(SOON).unwrap();
                let parsed = parse(&piece, piece.len()).unwrap();
                assert!(parsed.payload_len() <= usize::from(MSS));
                assert!(checksum::verify(&parsed, [&piece[..]]), "a finished checksum");
                payload.extend_from_slice(&piece[headers..]);
            }
            assert!(payload == frame[headers..]);
        }
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn segments_and_small_packets_keep_their_order() {
    in_each_mode(|mode| {
        veth("a", 61_000, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on_in(mode, "a", 0)).unwrap();
        let far = SegmentTap::new("ap");
        // Small ones, segments, and a large packet without a segment size.
        let frames: Vec<(Vec<u8>, u16)> = (0..40u8)
            .map(|i| match i % 5 {
                0 | 3 => (tcp(i % 2 == 0, ACK, i, 20_000), MSS),
                1 => (tcp(false, ACK, i, 50_000), 0),
                _ => (tcp(false, ACK, i, 10), 0),
            })
            .collect();
        let packets = frames
            .iter()
            .map(|(bytes, size)| segment(&mut pool, bytes, *size))
            .collect();
        send(&mut port, &mut pool, packets);
        for (i, (frame, size)) in frames.iter().enumerate() {
            let (header, got) = far.receive(SOON).unwrap();
            assert!(got == *frame, "packet {i}: {} octets of {}", got.len(), frame.len());
            assert_eq!(header.gso_size, *size, "packet {i}");
        }
        assert_eq!(port.stats().tx_packets, 40);
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn a_packet_that_is_no_segment_is_dropped_and_counted() {
    in_namespace(|| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on_in(XdpMode::Generic, "a", 0)).unwrap();
        let far = SegmentTap::new("ap");
        let good = tcp(false, ACK, 1, 5000);
        let mut udp = good.clone();
        udp[23] = 17;
        let mut fragment = good.clone();
        fragment[20] = 0x20;
        let other = frame(1, 100);
        let longer_than_it_is = good[..good.len() - 1].to_vec();
        let bad = [udp, fragment, other, longer_than_it_is];
        let mut packets: PacketVec = bad.iter().map(|bytes| segment(&mut pool, bytes, MSS)).collect();
        // Headers that straddle two frames.
        let mut straddling = segment(&mut pool, &good, MSS);
        straddling.set_head_range(context.store(), 256, 40);
        packets.push(straddling);
        // A good one behind them is sent.
        packets.push(segment(&mut pool, &good, MSS));
        send(&mut port, &mut pool, packets);
        let (_, got) = far.receive(SOON).unwrap();
        assert!(got == good);
        assert_eq!(far.receive(NEVER), None);
        let expected = SegmentCounts {
            sent: 1,
            invalid: 5,
            refused: 0,
        };
        assert_eq!(counts(&context), expected);
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

#[test]
fn segments_that_the_kernel_refuses_stay_with_their_sender() {
    in_namespace(|| {
        veth("a", 1500, 1);
        let mut context = context();
        let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        let mut port = context.open(on_in(XdpMode::Generic, "a", 0)).unwrap();
        let bytes = tcp(false, ACK, 1, LARGE);
        let try_three = |port: &mut XdpPort, pool: &mut WorkerPool| {
            let mut packets: PacketVec = (0..3).map(|_| segment(pool, &bytes, MSS)).collect();
            port.tx(pool, &mut packets);
            port.flush(pool);
            assert!(!port.unsent());
            let left = packets.len();
            packets.into_iter().for_each(|packet| pool.free_packet(packet));
            left
        };
        ip("link set dev a down");
        assert_eq!(try_three(&mut port, &mut pool), 3);
        assert_eq!((counts(&context).refused, port.stats().tx_stalls), (1, 1));
        // The device is up again.
        ip("link set dev a up");
        assert_eq!(try_three(&mut port, &mut pool), 0);
        assert_eq!((counts(&context).refused, counts(&context).sent), (1, 3));
        ip("link del dev a");
        assert_eq!(try_three(&mut port, &mut pool), 3);
        assert_eq!((counts(&context).refused, port.stats().tx_stalls), (2, 2));
        context.close(port);
        drop(pool);
        assert_all_frames(&context);
    });
}

/// Returns the lines of /proc/net/packet for a device: type and protocol of each packet socket.
fn packet_sockets(device: &str) -> Vec<(String, String)> {
    let index = index(device).to_string();
    let text = fs::read_to_string("/proc/thread-self/net/packet").unwrap();
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields.get(4) == Some(&&*index))
        .map(|fields| (fields[2].to_owned(), fields[3].to_owned()))
        .collect()
}

#[test]
fn the_segment_socket_receives_nothing_and_ends_with_its_port() {
    in_each_mode(|mode| {
        veth("a", 1500, 1);
        let mut context = context();
        let port: XdpPort = context.open(on_in(mode, "a", 0)).unwrap();
        assert_eq!(
            packet_sockets("a"),
            [("3".to_owned(), "0000".to_owned())],
            "SOCK_RAW, no protocol"
        );
        // Nothing of what comes after the port was closed reaches anybody.
        context.close(port);
        assert_eq!(packet_sockets("a"), []);
        let (near, host) = (Tap::new("ap", ETHERTYPE), Tap::new("a", ETHERTYPE));
        near.send(&frame(1, 100));
        assert_eq!(host.receive(Duration::from_millis(50)), None);
        assert_all_frames(&context);
    });
}
