//! Every reply, parsed again and verified by etherparse, and the packets that must not be answered.

use proptest::prelude::*;

use super::*;
use crate::parse::{ArpOperation, L3, Parsed, arp, parse};
use crate::testing::{self, Packet, assert_valid, ip, mac};
use crate::{IcmpMessage, TcpFlags};

const GW: MacAddr = MacAddr::GATEWAY;

fn v4() -> Packet {
    Packet::new(mac(1), GW, ip("10.0.0.1"), ip("10.0.0.2"))
}

fn v6() -> Packet {
    Packet::new(mac(1), GW, ip("fd00::1"), ip("fd00::2"))
}

fn gateway(p: &Parsed) -> Ip {
    if p.l3 == L3::V6 {
        ip("fe80::1")
    } else {
        ip("169.254.1.1")
    }
}

#[track_caller]
fn parsed(frame: &[u8]) -> Parsed {
    parse(frame, frame.len()).unwrap()
}

/// Builds a reply, verifies it by etherparse, and returns the frame and its parsed headers.
#[track_caller]
fn answer(build: impl FnOnce(&mut [u8]) -> Result<usize, BuildError>) -> (Vec<u8>, Parsed) {
    let mut out = vec![0xee; 2048];
    let n = build(&mut out).unwrap();
    assert!(
        out[n..].iter().all(|b| *b == 0xee),
        "nothing is written behind the answer"
    );
    out.truncate(n);
    assert_valid(&out);
    let p = parsed(&out);
    assert_eq!(p.end(), n);
    (out, p)
}

#[test]
fn arp_is_answered_to_who_asked() {
    let ask = testing::arp_request(mac(1), ip("10.0.0.1"), ip("169.254.1.1"));
    let (f, p) = answer(|out| arp_reply(&ask, &parsed(&ask), GW, out));
    let a = arp(&f, &p).unwrap();
    assert_eq!(
        (a.operation, a.sender_mac, a.sender),
        (ArpOperation::Reply, GW, ip("169.254.1.1"))
    );
    assert_eq!((a.target_mac, a.target), (mac(1), ip("10.0.0.1")));
    assert_eq!((ether::destination(&f), ether::source(&f)), (Some(mac(1)), Some(GW)));
    assert_eq!(arp_reply(&f, &p, GW, &mut [0; 64]), Err(BuildError::NotAnswerable));
    assert_eq!(
        arp_reply(&ask, &parsed(&ask), GW, &mut [0; 41]),
        Err(BuildError::NoRoom { needed: 42, room: 41 })
    );
    let (f, _) = answer(|out| arp_request(mac(1), ip("10.0.0.1"), ip("169.254.1.1"), out));
    assert_eq!(f, ask);
}

#[test]
fn a_solicitation_is_answered_as_solicited_and_a_probe_to_all() {
    let ask = testing::ndp_solicit(mac(1), ip("fd00::1"), ip("fe80::1"));
    let (f, p) = answer(|out| neighbor_advertisement(&ask, &parsed(&ask), GW, true, out));
    assert_eq!((p.icmp(), p.ttl), (Some(IcmpMessage::NeighborAdvertisement), 255));
    assert_eq!((p.src, p.dst, f[58]), (ip("fe80::1"), ip("fd00::1"), 0xe0));
    assert_eq!(
        (&f[62..78], &f[78..80], &f[80..86]),
        (&ip("fe80::1").octets()[..], &[2u8, 1][..], &GW.0[..])
    );
    assert_eq!(ether::destination(&f), Some(mac(1)));

    let probe = testing::ndp_solicit(mac(1), ip("::"), ip("fe80::1"));
    let (f, p) = answer(|out| neighbor_advertisement(&probe, &parsed(&probe), GW, false, out));
    assert_eq!((p.dst, f[58]), (ip("ff02::1"), 0x20));
    assert_eq!(ether::destination(&f), Some(MacAddr([0x33, 0x33, 0, 0, 0, 1])));
}

#[test]
fn invalid_solicitations_are_not_answered() {
    let good = testing::ndp_solicit(mac(1), ip("fd00::1"), ip("fe80::1"));
    let refused =
        |f: &[u8]| neighbor_advertisement(f, &parsed(f), GW, true, &mut [0; 256]) == Err(BuildError::NotAnswerable);
    assert!(!refused(&good));
    let mut sum = good;
    sum[60] ^= 1;
    assert!(refused(&sum), "checksum");
    let base = Packet::new(mac(1), GW, ip("fd00::1"), ip("fe80::1"));
    let target = ip("fe80::1").octets().to_vec();
    let ns = |p: &Packet, code, body: &[u8]| p.icmp(135, code, [0; 4], body);
    assert!(
        !refused(&ns(&base.clone().ttl(255), 0, &target)),
        "without options, unicast"
    );
    assert!(refused(&ns(&base.clone().ttl(254), 0, &target)), "hop limit");
    assert!(refused(&ns(&base.clone().ttl(255), 1, &target)), "code");
    assert!(refused(&ns(&base.clone().ttl(255), 0, &target[..15])), "length");
    assert!(
        refused(&ns(&base.clone().ttl(255), 0, &ip("ff02::1").octets())),
        "multicast target"
    );
    let zero_option = [&target[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert!(refused(&ns(&base.ttl(255), 0, &zero_option)), "option of length 0");
    let probe = Packet::new(mac(1), GW, ip("::"), ip("ff02::1:ff00:1")).ttl(255);
    assert!(!refused(&ns(&probe, 0, &target)));
    assert!(
        refused(&ns(&probe, 0, &[&target[..], &[1, 1, 2, 0, 0, 0, 0, 1]].concat())),
        "probe with an address"
    );
    assert!(
        refused(&ns(
            &Packet::new(mac(1), GW, ip("::"), ip("fe80::1")).ttl(255),
            0,
            &target
        )),
        "probe to a host"
    );
    assert!(refused(&v6().echo_request(1, 1, b"")));
}

#[test]
fn errors_have_the_type_and_code_of_the_family() {
    use IcmpError::{TimeExceeded, TooBig, Unreachable as No};
    for (error, four, six) in [
        (TimeExceeded, (11, 0, 0u32), (3, 0, 0u32)),
        (TooBig { mtu: 1400 }, (3, 4, 1400), (2, 0, 1400)),
        (No(Unreachable::NoRoute), (3, 0, 0), (1, 0, 0)),
        (No(Unreachable::Host), (3, 1, 0), (1, 3, 0)),
        (No(Unreachable::Port), (3, 3, 0), (1, 4, 0)),
        (No(Unreachable::Prohibited), (3, 13, 0), (1, 1, 0)),
        (No(Unreachable::Code(10)), (3, 10, 0), (1, 10, 0)),
    ] {
        for (base, want) in [(v4(), four), (v6(), six)] {
            let about = base.clone().ttl(1).udp(1000, 53, b"query");
            let asked = parsed(&about);
            let (f, p) = answer(|out| icmp_error(&about, &asked, error, GW, gateway(&asked), out));
            let word = u32::from_be_bytes(f[p.l4() + 4..p.l4() + 8].try_into().unwrap());
            assert_eq!((p.icmp_type, p.icmp_code, word), want);
            assert_eq!(
                (p.src, p.dst, &f[p.payload()..]),
                (gateway(&asked), asked.src, &about[14..])
            );
            assert_eq!((ether::destination(&f), ether::source(&f)), (Some(mac(1)), Some(GW)));
            assert_eq!(crate::parse::quoted(&f, &p).unwrap().tuple(), asked.tuple());
        }
    }
}

#[test]
fn quotes_are_as_long_as_the_rules_allow() {
    for (base, limit) in [(v4(), 576), (v6(), 1280)] {
        let about = base.clone().padding(20).udp(1, 2, &[7; 1400]);
        let asked = parsed(&about);
        let (f, p) = answer(|out| icmp_error(&about, &asked, IcmpError::TimeExceeded, GW, gateway(&asked), out));
        assert_eq!(p.l3_len, limit);
        assert_eq!(&f[p.payload()..], &about[14..14 + f.len() - p.payload()]);
        // The quote ends with the head frame.
        let (f, p) = answer(|out| icmp_error(&about[..100], &asked, IcmpError::TimeExceeded, GW, gateway(&asked), out));
        assert_eq!(&f[p.payload()..], &about[14..100]);
        // Padding is not quoted, because it is not part of the packet.
        let short = base.padding(20).udp(1, 2, b"");
        let asked = parsed(&short);
        let (f, p) = answer(|out| icmp_error(&short, &asked, IcmpError::TimeExceeded, GW, gateway(&asked), out));
        assert_eq!(f.len() - p.payload(), short.len() - 14 - 20);
    }
}

#[test]
fn errors_are_never_about_errors_groups_or_later_fragments() {
    let may = |f: &[u8]| may_answer_with_error(&parsed(f), IcmpError::TimeExceeded);
    let too_big = |f: &[u8]| may_answer_with_error(&parsed(f), IcmpError::TooBig { mtu: 1280 });
    for base in [v4(), v6()] {
        let udp = base.udp(1, 2, b"");
        assert!(may(&udp) && may(&base.echo_request(1, 1, b"")));
        assert!(!may(&base.icmp_error(3, 0, 0, &udp)));
        assert!(may(&base
            .clone()
            .fragment(0, true)
            .raw(Proto::UDP, &[0, 1, 0, 2, 0, 64, 0, 0])));
        assert!(!may(&base.clone().fragment(8, false).raw(Proto::UDP, &[0; 8])));
    }
    assert!(!may(&testing::udp(
        mac(1),
        GW,
        ip("10.0.0.1"),
        ip("224.0.0.251"),
        1,
        2,
        b""
    )));
    assert!(!may(&testing::udp(
        mac(1),
        GW,
        ip("10.0.0.1"),
        ip("255.255.255.255"),
        1,
        2,
        b""
    )));
    assert!(!may(&testing::udp(
        mac(1),
        GW,
        ip("0.0.0.0"),
        ip("10.0.0.2"),
        1,
        2,
        b""
    )));
    assert!(!may(&testing::udp(
        mac(1),
        GW,
        ip("240.0.0.1"),
        ip("10.0.0.2"),
        1,
        2,
        b""
    )));
    assert!(!may(&testing::udp(
        mac(1),
        MacAddr::BROADCAST,
        ip("10.0.0.1"),
        ip("10.0.0.2"),
        1,
        2,
        b""
    )));
    assert!(!may(&testing::udp(mac(1), GW, ip("::"), ip("fd00::2"), 1, 2, b"")));
    let group = testing::udp(
        mac(1),
        MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        ip("fd00::1"),
        ip("ff02::1"),
        1,
        2,
        b"",
    );
    assert!(!may(&group) && too_big(&group), "RFC 4443 section 2.4(e.3)");
    assert!(
        !may(&v6().ttl(255).icmp(137, 0, [0; 4], &[0; 32])),
        "RFC 4443 section 2.4(e.2)"
    );
    assert!(!may(&testing::arp_request(mac(1), ip("10.0.0.1"), ip("10.0.0.2"))));
}

#[test]
fn an_answer_of_the_other_family_is_refused() {
    let f = v4().udp(1, 2, b"");
    let r = icmp_error(
        &f,
        &parsed(&f),
        IcmpError::TimeExceeded,
        GW,
        ip("fe80::1"),
        &mut [0; 256],
    );
    assert_eq!(r, Err(BuildError::NotAnswerable));
}

#[test]
fn resets_as_rfc_9293_has_them() {
    for base in [v4(), v6()] {
        let reset = |flags, payload: &[u8]| {
            let f = base.tcp(1000, 80, flags, 100, 900, payload);
            let p = parsed(&f);
            let (a, q) = answer(|out| tcp_reset(&f, &p, GW, out));
            assert_eq!(
                (q.tuple(), ether::destination(&a)),
                (p.tuple().reversed(), Some(mac(1)))
            );
            (
                q.tcp_flags,
                crate::tcp::sequence(&a, &q).unwrap(),
                crate::tcp::acknowledgment(&a, &q).unwrap(),
            )
        };
        let with_ack = TcpFlags::RST | TcpFlags::ACK;
        assert_eq!(reset(TcpFlags::ACK, b"data"), (TcpFlags::RST, 900, 0));
        assert_eq!(reset(TcpFlags::SYN | TcpFlags::ACK, b""), (TcpFlags::RST, 900, 0));
        assert_eq!(reset(TcpFlags::SYN, b""), (with_ack, 0, 101));
        assert_eq!(reset(TcpFlags::SYN, b"data"), (with_ack, 0, 105));
        assert_eq!(reset(TcpFlags::FIN | TcpFlags::PSH, b"data"), (with_ack, 0, 105));
        assert_eq!(reset(TcpFlags::NONE, b"data"), (with_ack, 0, 104));

        let refused = |f: &[u8]| tcp_reset(f, &parsed(f), GW, &mut [0; 128]) == Err(BuildError::NotAnswerable);
        assert!(refused(&base.tcp(1, 2, TcpFlags::RST, 1, 2, b"")));
        assert!(refused(&base.tcp(1, 2, with_ack, 1, 2, b"")));
        assert!(refused(&base.udp(1, 2, b"")));
        let segment = base.tcp(1, 2, TcpFlags::ACK, 1, 2, b"1234");
        assert!(refused(
            &base
                .clone()
                .fragment(0, true)
                .raw(Proto::TCP, &segment[segment.len() - 24..])
        ));
    }
    let broadcast = testing::tcp(
        mac(1),
        GW,
        ip("10.0.0.1"),
        ip("255.255.255.255"),
        1,
        2,
        TcpFlags::SYN,
        0,
        0,
        b"",
    );
    assert_eq!(
        tcp_reset(&broadcast, &parsed(&broadcast), GW, &mut [0; 128]),
        Err(BuildError::NotAnswerable)
    );
}

#[test]
fn echo_requests_are_answered_with_their_data() {
    for base in [v4(), v6()] {
        let ask = base.clone().ttl(9).echo_request(7, 8, b"abcde");
        let asked = parsed(&ask);
        let (f, p) = answer(|out| echo_reply(&ask, &asked, GW, out));
        assert_eq!(
            (p.icmp(), p.tuple(), p.ttl),
            (Some(IcmpMessage::EchoReply), asked.tuple().reversed(), 64)
        );
        assert_eq!(&f[p.payload() - 4..], &ask[asked.payload() - 4..]);
        assert_eq!((ether::destination(&f), ether::source(&f)), (Some(mac(1)), Some(GW)));
        assert_eq!(
            echo_reply(&f, &p, GW, &mut [0; 256]),
            Err(BuildError::NotAnswerable),
            "a reply"
        );
        assert_eq!(
            echo_reply(&ask[..ask.len() - 1], &asked, GW, &mut [0; 256]),
            Err(BuildError::NotInHead)
        );
    }
}

#[test]
fn too_small_a_buffer_says_what_it_takes() {
    let f = v6().udp(1, 2, &[0; 20]);
    let r = icmp_error(
        &f,
        &parsed(&f),
        IcmpError::TimeExceeded,
        GW,
        ip("fe80::1"),
        &mut [0; 100],
    );
    assert_eq!(
        r,
        Err(BuildError::NoRoom {
            needed: 14 + 40 + 8 + 40 + 28,
            room: 100
        })
    );
}

proptest! {
    #[test]
    fn every_answer_to_a_random_packet_verifies(
        is_v4: bool, ports: (u16, u16), payload in prop::collection::vec(any::<u8>(), 0..1500),
        flags: u8, seq: u32, ack: u32, mtu: u32, code: u8, host: u8,
    ) {
        let base = if is_v4 {
            Packet::new(mac(1), GW, std::net::Ipv4Addr::new(10, 0, 0, host), ip("10.0.0.2"))
        } else {
            Packet::new(mac(1), GW, std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()), ip("fd00::2"))
        };
        let tcp = base.tcp(ports.0, ports.1, TcpFlags(flags), seq, ack, &payload);
        let p = parsed(&tcp);
        for error in [IcmpError::TimeExceeded, IcmpError::TooBig { mtu }, IcmpError::Unreachable(Unreachable::Code(code))] {
            answer(|out| icmp_error(&tcp, &p, error, GW, gateway(&p), out));
        }
        if !TcpFlags(flags).contains(TcpFlags::RST) {
            answer(|out| tcp_reset(&tcp, &p, GW, out));
        }
        let ask = base.echo_request(ports.0, ports.1, &payload);
        answer(|out| echo_reply(&ask, &parsed(&ask), GW, out));
    }
}
