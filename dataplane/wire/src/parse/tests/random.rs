//! Random packets, with etherparse as the oracle.

use super::*;

/// A packet that etherparse builds, with the fields that the parser must find in it.
fn well_formed() -> impl Strategy<Value = (Vec<u8>, Proto, u16, u16)> {
    use etherparse::PacketBuilder;
    let family = prop_oneof![Just(true), Just(false)];
    (
        family,
        0u8..4,
        any::<(u16, u16, u8)>(),
        prop::collection::vec(any::<u8>(), 0..200),
        1u8..223,
        1u8..223,
    )
        .prop_map(|(is_v4, which, (sport, dport, ttl), payload, a, b)| {
            // Never loopback: 126 or 128 instead.
            let (a, b) = (if a == 127 { 126 } else { a }, if b == 127 { 128 } else { b });
            let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let net = if is_v4 {
                eth.ipv4([a, 1, 2, 3], [b, 4, 5, 6], ttl)
            } else {
                let addr = |n: u8| [0xfd, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n];
                eth.ipv6(addr(a), addr(b), ttl)
            };
            let mut frame = Vec::new();
            let expected = match which {
                0 => {
                    net.udp(sport, dport).write(&mut frame, &payload).unwrap();
                    (Proto::UDP, sport, dport)
                }
                1 => {
                    net.tcp(sport, dport, 1, 1024)
                        .syn()
                        .write(&mut frame, &payload)
                        .unwrap();
                    (Proto::TCP, sport, dport)
                }
                2 if is_v4 => {
                    net.icmpv4_echo_request(sport, dport)
                        .write(&mut frame, &payload)
                        .unwrap();
                    (Proto::ICMP, sport, 0)
                }
                2 => {
                    net.icmpv6_echo_request(sport, dport)
                        .write(&mut frame, &payload)
                        .unwrap();
                    (Proto::ICMPV6, sport, 0)
                }
                _ if is_v4 => {
                    net.icmpv4_echo_reply(sport, dport).write(&mut frame, &payload).unwrap();
                    (Proto::ICMP, 0, sport)
                }
                _ => {
                    net.icmpv6_echo_reply(sport, dport).write(&mut frame, &payload).unwrap();
                    (Proto::ICMPV6, 0, sport)
                }
            };
            (frame, expected.0, expected.1, expected.2)
        })
}

proptest! {
    #[test]
    fn packets_built_by_etherparse_are_parsed_correctly((frame, proto, sport, dport) in well_formed()) {
        fuzzing::check_parse(&frame);
        fuzzing::check_against_etherparse(&frame);
        let p = parse(&frame, frame.len()).unwrap();
        prop_assert_eq!((p.proto, p.sport, p.dport, p.end()), (proto, sport, dport, frame.len()));
        prop_assert!(crate::checksum::verify(&p, [&frame[..]]));
    }

    #[test]
    fn mutated_and_cut_packets_keep_the_invariants(
        (mut frame, ..) in well_formed(),
        changes in prop::collection::vec((0usize..80, any::<u8>()), 0..5),
        cut in 0usize..300,
        resummed: bool,
    ) {
        for (at, to) in changes {
            if let Some(b) = frame.get_mut(at) {
                *b = to;
            }
        }
        frame.truncate(cut);
        if resummed && frame.len() >= 74 && frame[12..14] == [8, 0] {
            resum(&mut frame);
        }
        fuzzing::check_parse(&frame);
        fuzzing::check_against_etherparse(&frame);
    }

    #[test]
    fn random_bytes_keep_the_invariants(mut frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..3) {
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [8, 6]][kind]);
            frame[14] = [0x45, 0x60, 0][kind];
        }
        fuzzing::check_parse(&frame);
        if kind == 0 && frame.len() >= 34 {
            resum(&mut frame);
            fuzzing::check_parse(&frame);
        }
    }
}
