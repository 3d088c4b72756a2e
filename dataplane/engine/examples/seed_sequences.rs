//! Writes the seeds of the fuzz corpus of packet sequences, one for each behavior of the pipeline.

use std::path::Path;
use std::{env, fs, io};

use heddle_engine::fuzzing::op;

/// Parties.
const HOST: u8 = 0;
const A: u8 = 1;
const B: u8 = 2;
/// Further destinations. The high bit selects IPv6.
const SERVICE: u8 = 3;
const NO_SERVICE: u8 = 4;
const OUTSIDE: u8 = 6;
const GATEWAY: u8 = 7;
/// Pods of other nodes, reached by a tunnel over IPv4, over IPv6 and without one; and the first one's own address.
const POD_1: u8 = 8;
const POD_2: u8 = 9;
const POD_3: u8 = 10;
const NODE_1: u8 = 11;
/// Senders at the uplink: those pods, the first node itself, a packet of the first tunnel from outside, and the outside.
const BY_POD_1: u8 = 0x80;
const BY_POD_2: u8 = 0x81;
const BY_POD_3: u8 = 0x82;
const BY_NODE_1: u8 = 0x86;
const SPOOFED: u8 = 0x89;
const BY_OUTSIDE: u8 = 0x8b;
const V6: u8 = 0x80;
/// Kinds of packets, and bits for their options.
const UDP: u8 = 0;
const TCP: u8 = 2;
const SCTP: u8 = 4;
const ECHO: u8 = 5;
const REPLY: u8 = 6;
const ERROR: u8 = 7;
const PARTIAL: u8 = 1;
const MAY_FRAGMENT: u8 = 2;
const OPTIONS: u8 = 4;
const LONG: u8 = 8;
/// Ports 80, 8080 and 1000, by their index in the decoder's list.
const WEB: u8 = 0;
const TARGET: u8 = 1;
const CLIENT: u8 = 2;
/// Port 1001, the Service's node port.
const NODE_PORT: u8 = 3;
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 17;

type Step = Vec<u8>;

fn packet(from: u8, to: u8, kind: u8, sport: u8, dport: u8, flags: u8, len: u8, how: u8) -> Step {
    vec![op::PACKET, from, to, kind, sport, dport, flags, 0, len, how, op::TURN]
}

fn datagram(from: u8, to: u8, kind: u8, port: u8, size: u8, order: u8, lost: u8) -> Step {
    vec![op::DATAGRAM, from, to, kind, port, 90, size, order, lost, op::TURN]
}

fn fragment(from: u8, to: u8, id: u8, place: u8, len: u8, more: u8) -> Step {
    vec![op::FRAGMENT, from, to, 0, id, place, len, more, CLIENT]
}

fn seeds() -> Vec<(&'static str, Vec<Step>)> {
    let both = |step: fn(u8) -> Step| vec![step(0), step(V6)];
    vec![
        (
            "tcp-by-service",
            [0, V6]
                .into_iter()
                .flat_map(|v6| {
                    [
                        packet(A, SERVICE | v6, TCP, CLIENT, WEB, SYN, 0, PARTIAL),
                        packet(B, A | v6, TCP, TARGET, CLIENT, SYN | ACK, 0, PARTIAL),
                        packet(A, SERVICE | v6, TCP, CLIENT, WEB, ACK, 200, LONG),
                        packet(A, SERVICE | v6, TCP, CLIENT, WEB, FIN, 0, 0),
                    ]
                })
                .collect(),
        ),
        (
            "first-missing",
            both(|v6| {
                [
                    fragment(A, B | v6, 1, 8, 8, 1),
                    vec![op::WAIT, 50, op::WAIT, 50],
                    fragment(A, B | v6, 1, 0, 8, 1),
                ]
                .concat()
            }),
        ),
        (
            "ttl",
            both(|v6| vec![op::PACKET, A, B | v6, UDP, CLIENT, WEB, 0, 15, 9, 0, op::TURN]),
        ),
        (
            "reset",
            both(|v6| {
                [
                    vec![op::WAIT, 255].repeat(4),
                    packet(A, B | v6, TCP, CLIENT, WEB, ACK, 9, 0),
                ]
                .concat()
            }),
        ),
        (
            "echo",
            both(|v6| {
                [
                    packet(A, B | v6, ECHO, CLIENT, 0, 0, 9, 0),
                    packet(B, A | v6, REPLY, 0, CLIENT, 0, 9, 0),
                ]
                .concat()
            }),
        ),
        (
            "sctp",
            both(|v6| packet(A, SERVICE | v6, SCTP, CLIENT, WEB, 0, 40, PARTIAL)),
        ),
        (
            "gateway",
            both(|v6| packet(A, GATEWAY | v6, ECHO, CLIENT, 0, 0, 200, LONG)),
        ),
        (
            "rejected",
            both(|v6| {
                [
                    packet(A, NO_SERVICE | v6, UDP, CLIENT, WEB, 0, 9, 0),
                    vec![op::SERVE, 0],
                    packet(A, SERVICE | v6, TCP, CLIENT, WEB, SYN, 0, 0),
                ]
                .concat()
            }),
        ),
        (
            "error",
            both(|v6| {
                [
                    packet(A, SERVICE | v6, UDP, CLIENT, WEB, 0, 9, 0),
                    packet(B, A | v6, ERROR, TARGET, CLIENT, 0, 9, 0),
                ]
                .concat()
            }),
        ),
        (
            "too-large",
            both(|v6| packet(A, OUTSIDE | v6, UDP, CLIENT, WEB, 0, 100, LONG)),
        ),
        (
            "cut",
            vec![
                packet(A, OUTSIDE, UDP, CLIENT, WEB, 0, 250, LONG | MAY_FRAGMENT | PARTIAL),
                packet(A, SERVICE, UDP, CLIENT, WEB, 0, 100, LONG | MAY_FRAGMENT | OPTIONS),
                vec![op::SERVE, 1],
                packet(A, SERVICE, UDP, CLIENT, WEB, 0, 100, LONG | MAY_FRAGMENT | OPTIONS),
            ],
        ),
        (
            "datagrams",
            both(|v6| {
                (0..20)
                    .flat_map(|order| datagram(A, SERVICE | v6, order, WEB, 20, order * 13, 0))
                    .collect()
            }),
        ),
        (
            "datagrams-host",
            both(|v6| {
                [
                    datagram(HOST, B | v6, 0, WEB, 60, 0, 0),
                    datagram(B, HOST | v6, 0, WEB, 60, 77, 0),
                ]
                .concat()
            }),
        ),
        (
            "datagram-lost",
            both(|v6| {
                [
                    datagram(A, B | v6, 0, WEB, 30, 50, 3),
                    vec![op::WAIT, 99, op::WAIT, 99],
                    datagram(A, B | v6, 3, WEB, 30, 50, 2),
                ]
                .concat()
            }),
        ),
        (
            "datagram-large",
            both(|v6| {
                [
                    vec![op::POLICY, 1, 7],
                    datagram(A, B | v6, 0, WEB, 63, 9, 0),
                    datagram(A, OUTSIDE | v6, 0, WEB, 63, 2, 0),
                ]
                .concat()
            }),
        ),
        (
            "policy",
            both(|v6| {
                [
                    datagram(A, B | v6, 0, WEB, 30, 9, 0),
                    vec![op::POLICY, 1, 0],
                    datagram(A, B | v6, 0, WEB, 30, 9, 0),
                    fragment(A, B | v6, 1, 8, 8, 1),
                    vec![op::POLICY, 1, 3],
                    fragment(A, B | v6, 1, 0, 8, 1),
                ]
                .concat()
            }),
        ),
        (
            "overlap",
            both(|v6| {
                [
                    fragment(A, B | v6, 1, 0, 8, 1),
                    fragment(A, B | v6, 1, 4, 8, 1),
                    fragment(A, B | v6, 1, 16, 8, 0),
                    vec![op::TURN],
                ]
                .concat()
            }),
        ),
        (
            "flood",
            both(|v6| {
                (0..60)
                    .flat_map(|n| [fragment(A, B | v6, n, 1 + n, 1, 1), fragment(B, A | v6, n, 0, 8, 1)].concat())
                    .collect()
            }),
        ),
        (
            "no-room",
            both(|v6| {
                [
                    vec![op::ROOM, 2, 3],
                    datagram(A, B | v6, 0, WEB, 5, 1, 0),
                    vec![op::ROOM, 2, 255],
                    datagram(A, B | v6, 0, WEB, 5, 1, 0),
                ]
                .concat()
            }),
        ),
        (
            "tunnels",
            both(|v6| {
                [(POD_1, BY_POD_1), (POD_2, BY_POD_2), (POD_3, BY_POD_3)]
                    .into_iter()
                    .flat_map(|(pod, by)| {
                        [
                            packet(A, pod | v6, TCP, CLIENT, WEB, SYN, 0, PARTIAL),
                            packet(by, A | v6, TCP, WEB, CLIENT, SYN | ACK, 0, 0),
                            packet(by, B | v6, UDP, CLIENT, TARGET, 0, 9, 0),
                            packet(B, pod | v6, UDP, TARGET, CLIENT, 0, 9, PARTIAL),
                            packet(A, pod | v6, ECHO, CLIENT, 0, 0, 9, 0),
                            packet(by, A | v6, REPLY, 0, CLIENT, 0, 9, 0),
                            packet(A, pod | v6, SCTP, CLIENT, WEB, 0, 40, PARTIAL),
                            packet(by, HOST | v6, TCP, CLIENT, TARGET, SYN, 0, 0),
                        ]
                        .concat()
                    })
                    .collect()
            }),
        ),
        (
            "tunnel-own-addresses",
            both(|v6| {
                [
                    packet(A, NODE_1 | v6, TCP, CLIENT, WEB, SYN, 0, PARTIAL),
                    packet(BY_NODE_1, A | v6, TCP, WEB, CLIENT, SYN | ACK, 0, 0),
                    packet(SPOOFED, A | v6, UDP, CLIENT, WEB, 0, 9, 0),
                    packet(BY_POD_1, OUTSIDE | v6, UDP, CLIENT, WEB, 0, 9, 0),
                ]
                .concat()
            }),
        ),
        (
            "tunnel-sizes",
            both(|v6| {
                [
                    packet(A, POD_1 | v6, UDP, CLIENT, WEB, 0, 20, LONG),
                    packet(A, POD_1 | v6, UDP, CLIENT, WEB, 0, 20, LONG | MAY_FRAGMENT | PARTIAL),
                    packet(A, POD_2 | v6, UDP, CLIENT, WEB, 0, 100, LONG | MAY_FRAGMENT | OPTIONS),
                    vec![op::POLICY, 0, 7],
                    packet(BY_POD_1, A | v6, UDP, CLIENT, WEB, 0, 8, LONG),
                    vec![op::PACKET, BY_POD_2, A | v6, UDP, CLIENT, WEB, 0, 15, 9, 0, op::TURN],
                ]
                .concat()
            }),
        ),
        (
            "tunnel-datagrams",
            both(|v6| {
                [(POD_1, BY_POD_1), (POD_2, BY_POD_2), (POD_3, BY_POD_3)]
                    .into_iter()
                    .flat_map(|(pod, by)| {
                        [
                            datagram(A, pod | v6, 0, WEB, 60, 9, 0),
                            datagram(by, A | v6, 0, CLIENT, 30, 77, 0),
                            datagram(by, B | v6, 3, CLIENT, 30, 5, 2),
                            fragment(by, B | v6, 1, 8, 8, 1),
                        ]
                        .concat()
                    })
                    .collect()
            }),
        ),
        (
            "tunnel-services",
            both(|v6| {
                [
                    vec![op::SERVE, 0b1000],
                    packet(A, SERVICE | v6, TCP, CLIENT, WEB, SYN, 0, PARTIAL),
                    packet(BY_POD_1, A | v6, TCP, TARGET, CLIENT, SYN | ACK, 0, 0),
                    packet(BY_OUTSIDE, HOST | v6, TCP, CLIENT, NODE_PORT, SYN, 0, 0),
                    vec![op::SERVE, 0b1_0000],
                    packet(BY_OUTSIDE, HOST | v6, UDP, TARGET, NODE_PORT, 0, 9, 0),
                    packet(BY_POD_1, HOST | v6, UDP, CLIENT, NODE_PORT, 0, 9, 0),
                    vec![op::SERVE, 0b10],
                    packet(BY_OUTSIDE, HOST | v6, TCP, WEB, NODE_PORT, SYN, 0, 0),
                ]
                .concat()
            }),
        ),
        (
            "tunnel-paths",
            both(|v6| {
                (0..4)
                    .flat_map(|way| {
                        [
                            vec![op::PATH, 0, way],
                            packet(A, POD_1 | v6, UDP, CLIENT, WEB, 0, 9, PARTIAL),
                            packet(A, POD_1 | v6, UDP, CLIENT, WEB, 0, 8, LONG | MAY_FRAGMENT),
                            packet(BY_POD_1, A | v6, UDP, WEB, CLIENT, 0, 9, 0),
                            packet(HOST, POD_1 | v6, TCP, CLIENT, WEB, SYN, 0, 0),
                        ]
                        .concat()
                    })
                    .collect()
            }),
        ),
        (
            "tunnel-broken",
            (0..100)
                .map(|at| vec![op::BROKEN, BY_POD_1, A, UDP, CLIENT, WEB, 0, 0, 9, 0, at, 3, op::TURN])
                .collect(),
        ),
        (
            "broken",
            vec![
                [
                    packet(A, SERVICE, TCP, CLIENT, WEB, SYN, 9, 0),
                    vec![op::BROKEN, A, SERVICE, TCP, CLIENT, WEB, ACK, 0, 9, 0, 60, 1, op::TURN],
                    vec![op::RAW, A, 3, 1, 2, 3, op::TURN],
                ]
                .concat(),
            ],
        ),
    ]
}

fn main() -> io::Result<()> {
    let folder = env::args()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: seed_sequences FOLDER"))?;
    fs::create_dir_all(&folder)?;
    for (name, steps) in seeds() {
        for workers in [0, 1] {
            let bytes = [vec![workers], steps.concat()].concat();
            fs::write(Path::new(&folder).join(format!("{name}-{}.bin", workers + 1)), bytes)?;
        }
    }
    Ok(())
}
