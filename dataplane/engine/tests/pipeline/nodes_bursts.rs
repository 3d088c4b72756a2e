//! Packets of one burst from several senders. The outer headers of one packet are remembered for the next, and that must make no
//! difference.

use heddle_wire::TcpFlags;
use heddle_wire::testing::{Packet, ip};
use heddle_wire::vxlan::PORT;

use crate::nodes::{CLIENT, N1, N2, N3, ROUTER, STRANGER, header};
use crate::tables::{B, HOST, TUNNEL, UPLINK};
use crate::world::{Options, World};

/// The offset of the UDP header in an outer packet over IPv4.
const UDP: usize = 34;

/// Packets of senders that are known and unknown, and of each kind that is refused.
fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let inner = N1.pod_to(B.v4()).udp(1000, 53, b"data");
    let good = N1.encapsulate(&inner);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        finish(&mut frame);
        frame
    };
    let with = |outer: &Packet, vni| outer.clone().udp(9, PORT, &[&header(vni)[..], &inner].concat());
    vec![
        ("good", good.clone()),
        (
            "another connection",
            N1.encapsulate(&N1.pod_to(B.v6()).udp(1001, 53, b"x")),
        ),
        ("over IPv6", N3.encapsulate(&N3.pod_to(B.v4()).udp(1000, 53, b"x"))),
        (
            "over IPv6, IPv6",
            N3.encapsulate(&N3.pod_to(B.v6()).udp(1000, 53, b"data")),
        ),
        (
            "another node's pod",
            N1.encapsulate(&N3.pod_to(B.v4()).udp(1000, 53, b"x")),
        ),
        ("no path to the sender", with(&N2.outer(), TUNNEL.vni)),
        (
            "stranger",
            with(&Packet::new(ROUTER, UPLINK.mac, ip(CLIENT), HOST.v4()), TUNNEL.vni),
        ),
        ("another network", with(&N1.outer(), TUNNEL.vni + 1)),
        (
            "to another address",
            with(&Packet::new(ROUTER, UPLINK.mac, N1.address(), ip(CLIENT)), TUNNEL.vni),
        ),
        (
            "another neighbor",
            changed(&|frame| frame[6..12].copy_from_slice(&STRANGER.0)),
        ),
        ("congested", changed(&|frame| frame[15] = 3)),
        ("fragment", changed(&|frame| frame[20] = 0x20)),
        (
            "without DF, another TTL and identification",
            changed(&|frame| {
                frame[18..21].copy_from_slice(&[1, 2, 0]);
                frame[22] = 3;
            }),
        ),
        ("TCP", N1.outer().tcp(9, PORT, TcpFlags::SYN, 1, 0, &inner)),
        ("another port", N1.outer().udp(9, PORT + 1, &inner)),
        ("datagram ends early", changed(&|frame| frame[UDP + 5] -= 40)),
        (
            "datagram ends in the inner header",
            changed(&|frame| frame[UDP + 5] = 29),
        ),
        ("datagram ends behind the packet", changed(&|frame| frame[UDP + 5] += 1)),
        ("packet ends behind the frame", changed(&|frame| frame[17] += 1)),
        ("flags", changed(&|frame| frame[UDP + 8] = 0)),
        ("reserved bits", changed(&|frame| frame[UDP + 15] = 1)),
        ("no gateway", changed(&|frame| frame[UDP + 16] = 4)),
        ("wrong checksum", {
            let mut frame = good.clone();
            frame[24] ^= 1;
            frame
        }),
        ("padded", [&good[..], &[0xee; 9]].concat()),
        ("cut", good[..63].to_vec()),
        ("TTL", N1.encapsulate(&N1.pod_to(B.v4()).ttl(1).udp(1002, 53, b"x"))),
    ]
}

/// Sets the checksum of the outer IPv4 header.
fn finish(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = heddle_wire::checksum::sum(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// All that a world shows.
#[derive(PartialEq, Debug)]
struct Seen {
    counters: Vec<String>,
    /// The frames that left, each with its port's number.
    outputs: Vec<(u16, Vec<u8>)>,
    tunnelled: (u64, u64),
    connections: usize,
}

impl Seen {
    fn of(world: &mut World) -> Self {
        Self {
            counters: world.changes(),
            outputs: world.take_outputs(),
            tunnelled: world.tunnelled(),
            connections: world.connections(),
        }
    }
}

#[test]
fn packets_of_one_burst_are_received_as_if_each_came_alone() {
    let packets = packets();
    let mut forwarded = 0;
    for (first_name, first) in &packets {
        for (name, second) in &packets {
            let mut together = World::new(Options::default());
            // The first sender once more, behind a packet that may have another one.
            for frame in [first, second, first] {
                together.push(&UPLINK, frame);
            }
            together.step();
            let mut apart = World::new(Options::default());
            for frame in [first, second, first] {
                apart.push(&UPLINK, frame);
                apart.step();
            }
            let all = Seen::of(&mut together);
            assert_eq!(all, Seen::of(&mut apart), "{first_name}, {name}");
            forwarded += all.outputs.len();
        }
    }
    assert!(forwarded > packets.len() * packets.len(), "{forwarded} frames left");
}
