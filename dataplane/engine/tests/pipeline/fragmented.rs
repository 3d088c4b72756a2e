//! IPv4 packets without DF that are larger than the path's MTU leave in fragments.

use std::sync::Arc;

use heddle_port::{WorkerId, WorkerPool};
use heddle_tables::{EndpointPolicy, Generation};
use heddle_wire::testing::ip;
use heddle_wire::{Ip, Proto};

use crate::large::pattern;
use crate::services::serve;
use crate::tables::{A, B, HOST, Party, UPLINK_MTU, endpoint, worker_of};
use crate::world::{Options, World, worlds};

/// Reassembles fragments as in RFC 791 section 3.2, and returns the datagram's data.
fn reassembled(fragments: &[Vec<u8>], mtu: u16) -> Vec<u8> {
    let mut data = Vec::new();
    for (n, fragment) in fragments.iter().enumerate() {
        let sliced = etherparse::SlicedPacket::from_ethernet(fragment).unwrap();
        let Some(etherparse::NetSlice::Ipv4(v4)) = &sliced.net else {
            panic!("no IPv4: {sliced:?}")
        };
        let header = v4.header();
        assert!(header.total_len() <= mtu);
        let offset = usize::from(header.fragments_offset().byte_offset());
        assert_eq!(offset, data.len(), "in order, without a gap");
        assert_eq!(header.more_fragments(), n + 1 < fragments.len());
        assert!(!header.dont_fragment());
        assert_eq!(header.ttl(), 63);
        data.extend_from_slice(v4.payload().payload);
    }
    data
}

fn popped(w: &mut World, party: &Party, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| w.pop(party)).collect()
}

/// Returns the checksum that a UDP datagram must have.
fn udp_checksum(src: Ip, dst: Ip, datagram: &[u8]) -> u16 {
    let header = etherparse::UdpHeaderSlice::from_slice(datagram).unwrap();
    let proto = etherparse::IpNumber::UDP;
    let ip = etherparse::Ipv4Header::new(0, 64, proto, src.v4_octets(), dst.v4_octets()).unwrap();
    header.to_header().calc_checksum_ipv4(&ip, &datagram[8..]).unwrap()
}

#[test]
fn ipv4_that_may_be_fragmented_is_and_can_be_put_together_again() {
    worlds(|w| {
        serve(w, &[&HOST]);
        for (dst, seen, dport) in [
            (HOST.v4(), HOST.v4(), 53),
            (ip("198.51.100.7"), ip("198.51.100.7"), 53),
            (ip("10.96.0.10"), HOST.v4(), 80),
        ] {
            for len in [1473, 1480, 2952, 2953, 9001, 60_000] {
                let payload = pattern(len);
                let packet = A.to(dst).dont_fragment(false);
                for packet in [packet.clone().partial(), packet] {
                    w.push(&A, &packet.udp(1000, dport, &payload));
                    w.step();
                    let count = (8 + len).div_ceil(1480);
                    let data = reassembled(&popped(w, &HOST, count), UPLINK_MTU);
                    assert!(data[8..] == payload);
                    // The checksum covers the whole packet: it was finished before the packet was cut.
                    let sum = u16::from_be_bytes([data[6], data[7]]);
                    assert_eq!(sum, udp_checksum(A.v4(), seen, &data));
                    w.changed(&[
                        "a rx 1",
                        "a forwarded 1",
                        &format!("a fragments {}", count - 1),
                        &format!("host tx {count}"),
                    ]);
                }
            }
        }
    });
}

#[test]
fn a_way_with_large_packets_gets_fragments_of_several_frames() {
    let mut w = World::new(Options {
        workers: 2,
        ..Options::default()
    });
    // B's port belongs to another worker, so the fragments are handed over.
    let open = Some(Arc::new(EndpointPolicy::open()));
    let mut small = endpoint(&B, worker_of(&B, 2), Generation(1), open);
    small.mtu = 9000;
    w.tables.set_endpoint(small);
    w.publish();
    let payload = pattern(20_000);
    w.push(&A, &A.to(B.v4()).dont_fragment(false).udp(1000, 53, &payload));
    w.step();
    assert!(reassembled(&popped(&mut w, &B, 3), 9000)[8..] == payload);
    w.changed(&["a rx 1", "a forwarded 1", "a fragments 2", "b tx 3"]);
}

#[test]
fn fragments_that_find_no_room_are_counted_beside_their_packet() {
    for (workers, lane, room) in [(1, 64, 0), (2, 64, 0), (2, 4, 64)] {
        let mut w = World::new(Options {
            workers,
            lane,
            ..Options::default()
        });
        let open = Some(Arc::new(EndpointPolicy::open()));
        let mut small = endpoint(&B, worker_of(&B, workers), Generation(1), open);
        small.mtu = 1500;
        w.tables.set_endpoint(small);
        w.publish();
        w.wire(&B).set_tx_room(room);
        w.push(&A, &A.to(B.v4()).dont_fragment(false).udp(1000, 53, &pattern(5000)));
        w.step();
        if room == 0 {
            w.changed(&["a rx 1", "a dropped tx-ring-full 1", "a fragments-lost 3"]);
        } else {
            popped(&mut w, &B, 2);
            w.changed(&[
                "a rx 1",
                "a forwarded 1",
                "a fragments 1",
                "a fragments-lost 2",
                "b tx 2",
            ]);
        }
    }
}

#[test]
fn without_frames_no_packet_is_cut_and_no_frame_is_lost() {
    let mut w = World::new(Options::default());
    let mut pool = WorkerPool::new(WorkerId(9), w.node.shared().clone());
    let mut taken: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    // The packet takes six frames, and its fragments would need fourteen.
    taken.drain(..15).for_each(|frame| pool.free(frame));
    pool.drain();
    let packet = A.to(HOST.v4()).dont_fragment(false).udp(1000, 53, &pattern(20_000));
    w.push(&A, &packet);
    w.step();
    w.changed(&["a rx 1", "a dropped pool-empty 1"]);
    taken.into_iter().for_each(|frame| pool.free(frame));
    pool.drain();
    w.push(&A, &packet);
    w.step();
    assert!(reassembled(&popped(&mut w, &HOST, 14), UPLINK_MTU)[8..] == pattern(20_000));
    w.changed(&["a rx 1", "a forwarded 1", "a fragments 13", "host tx 14"]);
}

#[test]
fn a_packet_that_is_a_fragment_itself_is_cut_where_it_lies() {
    let mut w = World::new(Options::default());
    let mut udp = [1000_u16, 53, 8 + 3992 + 8, 0].map(u16::to_be_bytes).concat();
    udp.extend(pattern(3992));
    w.push(&A, &A.to(HOST.v4()).fragment(0, true).raw(Proto::UDP, &udp));
    w.step();
    let mut data = Vec::new();
    for fragment in popped(&mut w, &HOST, 3) {
        let p = heddle_wire::parse(&fragment, fragment.len()).unwrap();
        assert!(p.more_fragments);
        assert_eq!(usize::from(p.fragment_offset), data.len());
        data.extend_from_slice(&fragment[34..]);
    }
    assert_eq!(data, udp);
    w.changed(&["a rx 1", "a forwarded 1", "a fragments 2", "host tx 3"]);
}
