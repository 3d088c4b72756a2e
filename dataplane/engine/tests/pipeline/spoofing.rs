//! Anti-spoofing: a pod can send only from its own addresses and MAC address, and can announce no other address.

use heddle_wire::testing::{Packet, arp_reply, arp_request, ip, mac, ndp_solicit};
use heddle_wire::{Ip, MacAddr, TcpFlags};

use crate::forwarding::addresses;
use crate::tables::{A, B, C, HOST};
use crate::world::worlds;

#[test]
fn a_source_address_that_is_not_the_pods_is_dropped() {
    worlds(|w| {
        let others = [
            "10.0.0.99",
            "198.51.100.7",
            "169.254.1.1",
            "192.0.2.1",
            "10.96.0.10",
            "0.0.0.0",
        ];
        for src in others.map(ip).into_iter().chain([B.v4()]) {
            let frame = Packet::new(A.mac, MacAddr::GATEWAY, src, C.v4());
            w.dropped(&A, &frame.udp(1000, 53, b"x"), "spoofed-source");
            w.dropped(&A, &frame.tcp(1000, 80, TcpFlags::SYN, 1, 0, b""), "spoofed-source");
            w.dropped(&A, &frame.tcp(1000, 80, TcpFlags::ACK, 1, 1, b""), "spoofed-source");
            w.dropped(&A, &frame.ttl(1).echo_request(1, 1, b"x"), "spoofed-source");
        }
        for src in ["fd00::99", "2001:db8::1", "fe80::1", "fe80::2"]
            .map(ip)
            .into_iter()
            .chain([B.v6()])
        {
            let frame = Packet::new(A.mac, MacAddr::GATEWAY, src, C.v6());
            w.dropped(&A, &frame.udp(1000, 53, b"x"), "spoofed-source");
        }
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn a_source_mac_that_is_not_the_pods_is_dropped() {
    worlds(|w| {
        let frame = Packet::new(mac(99), MacAddr::GATEWAY, A.v4(), B.v4());
        w.dropped(&A, &frame.udp(1000, 53, b"x"), "spoofed-mac");
        // Also in a flow that stands.
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        w.dropped(&A, &frame.udp(1000, 53, b"x"), "spoofed-mac");
    });
}

#[test]
fn arp_and_neighbor_messages_for_others_are_dropped() {
    worlds(|w| {
        w.dropped(&A, &arp_request(A.mac, B.v4(), ip("169.254.1.1")), "spoofed-neighbor");
        w.dropped(
            &A,
            &arp_reply(A.mac, MacAddr::GATEWAY, B.v4(), A.v4()),
            "spoofed-neighbor",
        );
        w.dropped(&A, &ndp_solicit(A.mac, B.v6(), ip("fe80::1")), "spoofed-neighbor");
        // The ARP packet says another MAC than the frame.
        let mut lie = arp_request(A.mac, A.v4(), ip("169.254.1.1"));
        lie[22..28].copy_from_slice(&B.mac.0);
        w.dropped(&A, &lie, "spoofed-neighbor");
    });
}

#[test]
fn another_pods_packets_of_a_live_flow_are_dropped_and_the_flow_lives_on() {
    worlds(|w| {
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            w.pass(&B, &A, &B.to(a).tcp(80, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b""));
            for (src, dst, sport, dport) in [(a, b, 1000, 80), (b, a, 80, 1000)] {
                let forged = Packet::new(C.mac, MacAddr::GATEWAY, src, dst);
                for flags in [
                    TcpFlags::ACK,
                    TcpFlags::RST,
                    TcpFlags::SYN,
                    TcpFlags::FIN | TcpFlags::ACK,
                ] {
                    w.dropped(&C, &forged.tcp(sport, dport, flags, 2, 2, b""), "spoofed-source");
                }
            }
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"still here"));
            w.pass(&B, &A, &B.to(a).tcp(80, 1000, TcpFlags::ACK, 2, 12, b"me too"));
        }
        assert_eq!(w.connections(), 2);
    });
}

#[test]
fn the_host_does_not_speak_for_local_pods_or_the_gateway() {
    worlds(|w| {
        for src in [A.v4(), ip("169.254.1.1"), ip("10.0.0.99")] {
            let frame = Packet::new(HOST.mac, MacAddr::GATEWAY, src, B.v4());
            w.dropped(&HOST, &frame.udp(1, 2, b"x"), "spoofed-source");
        }
        let nobody = Packet::new(HOST.mac, MacAddr::GATEWAY, Ip::from_v4([0; 4]), B.v4());
        w.dropped(&HOST, &nobody.udp(1, 2, b"x"), "martian");
    });
}
