//! Malformed frames: each is dropped for its own reason, none is forwarded, nothing panics.

use heddle_engine::DropReason;
use heddle_wire::testing::{Checksum, Packet, ip};
use heddle_wire::{MacAddr, ParseError, Proto, TcpFlags, parse};

use crate::tables::{A, B};
use crate::world::worlds;

/// A valid frame and the change that is made to it.
fn corpus() -> Vec<Vec<u8>> {
    let v4 = A.to(B.v4()).udp(1000, 53, b"payload");
    let v6 = A.to(B.v6()).udp(1000, 53, b"payload");
    let mut frames = Vec::new();
    let mut change = |good: &[u8], at: usize, value: u8| {
        let mut bad = good.to_vec();
        bad[at] = value;
        frames.push(bad);
    };
    change(&v4, 12, 0x81);
    change(&v4, 12, 0x88);
    for (at, value) in [
        (14, 0x55),
        (14, 0x44),
        (16, 0xff),
        (17, 5),
        (24, 0),
        (23, 99),
        (26, 127),
        (30, 127),
    ] {
        change(&v4, at, value);
    }
    for (at, value) in [(14, 0x40), (18, 0xff), (20, 44), (20, 43), (20, 0), (58, 0xff)] {
        change(&v6, at, value);
    }
    for frame in [
        &v4,
        &v6,
        &A.to(B.v4()).tcp(1, 2, TcpFlags::SYN, 1, 0, b""),
        &A.to(B.v4()).echo_request(1, 1, b""),
    ] {
        frames.extend((0..frame.len()).map(|n| frame[..n].to_vec()));
    }
    frames.push(A.to(B.v4()).raw(Proto::TCP, &[0; 20]));
    frames.push(A.to(B.v4()).raw(Proto::SCTP, &[0; 11]));
    frames.push(Packet::new(A.mac, MacAddr::GATEWAY, ip("224.0.0.1"), B.v4()).udp(1, 2, b""));
    frames.push(Packet::new(A.mac, MacAddr::GATEWAY, ip("::ffff:10.0.0.2"), B.v4()).raw(Proto::UDP, &[0; 8]));
    frames.push(A.to(B.v4()).icmp_error(3, 3, 0, &A.to(B.v4()).icmp_error(3, 3, 0, &v4)));
    frames.push(A.to(B.v4()).icmp(3, 3, [0; 4], &v4[14..30]));
    frames
}

#[test]
fn refused_packets_are_dropped_under_the_parsers_name() {
    worlds(|w| {
        let mut reasons = Vec::new();
        for frame in corpus() {
            let refused: Result<_, ParseError> = parse(&frame, frame.len()).and_then(|p| {
                heddle_wire::parse::quoted(&frame, &p).map(|_| ()).or(
                    if p.icmp() == Some(heddle_wire::IcmpMessage::Error) {
                        Err(heddle_wire::parse::quoted(&frame, &p)
                            .err()
                            .unwrap_or(ParseError::QuoteOfError))
                    } else {
                        Ok(())
                    },
                )
            });
            let Err(error) = refused else { continue };
            reasons.push(error);
            w.dropped(&A, &frame, DropReason::from(error).as_str());
        }
        reasons.sort_by_key(|e| *e as u8);
        reasons.dedup();
        assert!(reasons.len() > 15, "the corpus reaches too few reasons: {reasons:?}");
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn other_protocols_are_forwarded() {
    worlds(|w| {
        for proto in [47, 50, 4, 41, 89, 255].map(Proto) {
            w.pass(&A, &B, &A.to(B.v4()).raw(proto, &[0; 40]));
        }
    });
}

#[test]
fn a_wrong_transport_checksum_stays_wrong() {
    // A router does not judge it, and must not make it right either.
    let mut w = crate::world::World::new(crate::world::Options::default());
    crate::services::serve(&mut w, &[&B]);
    let wrong = A
        .to(ip("10.96.0.10"))
        .checksum(Checksum::Wrong)
        .udp(1000, 80, b"payload");
    w.push(&A, &wrong);
    w.turn(0);
    let out = w.wire(&B).pop().unwrap();
    assert!(heddle_wire::testing::verify(&out).is_err());
    w.popped_elsewhere(&B, out.len());
    w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
}
