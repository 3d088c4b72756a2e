//! ARP, neighbor discovery and echo. The gateway exists only in heddle, and answers for all addresses behind it.

use heddle_wire::parse::{ArpOperation, arp};
use heddle_wire::testing::{Packet, arp_reply, arp_request, ip, mac, ndp_solicit};
use heddle_wire::{Ip, MacAddr, ether};

use crate::tables::{A, B, HOST};
use crate::world::worlds;

const ALL_NODES: &str = "ff02::1";
const LINK_LOCAL: &str = "fe80::2";

#[test]
fn arp_for_the_gateway_and_for_everybody_else_is_answered_with_the_gateways_mac() {
    worlds(|w| {
        for target in [ip("169.254.1.1"), B.v4(), ip("10.96.0.10"), ip("198.51.100.7")] {
            let (out, p) = w.answered(&A, &arp_request(A.mac, A.v4(), target), "arp");
            let a = arp(&out, &p).unwrap();
            assert_eq!(
                (a.operation, a.sender_mac, a.sender),
                (ArpOperation::Reply, MacAddr::GATEWAY, target)
            );
            assert_eq!((a.target_mac, a.target), (A.mac, A.v4()));
        }
        for target in [A.v4(), ip("10.96.0.10")] {
            w.answered(&HOST, &arp_request(HOST.mac, HOST.v4(), target), "arp");
        }
    });
}

#[test]
fn neighbor_solicitations_are_answered_likewise() {
    worlds(|w| {
        for asker in [A.v6(), ip(LINK_LOCAL)] {
            for target in [ip("fe80::1"), B.v6(), ip("fd96::10")] {
                let (out, p) = w.answered(&A, &ndp_solicit(A.mac, asker, target), "neighbor");
                assert_eq!((p.src, p.dst, p.icmp_type, p.ttl), (target, asker, 136, 255));
                assert_eq!(ether::destination(&out), Some(A.mac));
                assert_eq!(out[p.l4() + 8..p.l4() + 24], target.octets());
                assert_eq!(out[p.l4() + 26..p.l4() + 32], MacAddr::GATEWAY.0);
            }
        }
        w.answered(&HOST, &ndp_solicit(HOST.mac, HOST.v6(), A.v6()), "neighbor");
        w.dropped(&A, &ndp_solicit(A.mac, A.v6(), ip("fe80::77")), "martian");
    });
}

#[test]
fn echo_to_the_gateway_is_answered_by_it() {
    worlds(|w| {
        for gateway in ["169.254.1.1", "fe80::1"].map(ip) {
            let (_, p) = w.answered(&A, &A.to(gateway).echo_request(7, 1, b"are you there"), "echo");
            assert_eq!((p.src, p.dst, p.dport), (gateway, A.ip(gateway), 7));
            // The last hop is here: no time is exceeded.
            w.answered(&A, &A.to(gateway).ttl(1).echo_request(7, 2, b"are you there"), "echo");
        }
        let link_local = Packet::new(A.mac, MacAddr::GATEWAY, ip(LINK_LOCAL), ip("fe80::1"));
        w.answered(&A, &link_local.echo_request(7, 1, b"x"), "echo");
        let long = A.to(ip("169.254.1.1")).echo_request(7, 3, &[5; 2000]);
        w.pushed_split(&A, &long, 700);
        w.step();
        assert_eq!(w.pop(&A).len(), long.len());
        w.changed(&["a rx 1", "a tx 1", "a answered echo 1"]);
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn the_gateway_has_no_other_service() {
    worlds(|w| {
        w.absorbed(&A, &A.to(ip("169.254.1.1")).udp(1000, 53, b"x"), "to-gateway");
        w.absorbed(&A, &A.to(ip("fe80::1")).echo_reply(1, 1, b"x"), "to-gateway");
    });
}

#[test]
fn announcements_of_a_pods_own_address_are_absorbed() {
    worlds(|w| {
        let none = Ip::from_v4([0; 4]);
        w.absorbed(&A, &arp_request(A.mac, none, A.v4()), "duplicate-address-detection");
        w.absorbed(
            &A,
            &ndp_solicit(A.mac, Ip::UNSPECIFIED, A.v6()),
            "duplicate-address-detection",
        );
        w.absorbed(&A, &arp_request(A.mac, A.v4(), A.v4()), "neighbor-announcement");
        w.absorbed(
            &A,
            &arp_reply(A.mac, MacAddr::GATEWAY, A.v4(), B.v4()),
            "neighbor-announcement",
        );
        w.absorbed(&A, &ndp_solicit(A.mac, A.v6(), A.v6()), "neighbor-announcement");
        let group = MacAddr([0x33, 0x33, 0, 0, 0, 2]);
        let from = |dst: &str| Packet::new(A.mac, group, ip(LINK_LOCAL), ip(dst)).ttl(255);
        w.absorbed(&A, &from("ff02::2").icmp(133, 0, [0; 4], &[]), "router-solicitation");
        w.absorbed(
            &A,
            &from(ALL_NODES).icmp(136, 0, [0x20, 0, 0, 0], &A.v6().octets()),
            "neighbor-announcement",
        );
        let report = [4, 0, 0, 0, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2];
        // A router alert option before the report (RFC 3810 section 5).
        let alert = [0, 5, 2, 0, 0, 1, 0];
        let mld = from("ff02::16")
            .ttl(1)
            .extension(0, &alert)
            .icmp(143, 0, [0, 0, 0, 1], &report);
        w.absorbed(&A, &mld, "multicast-listener");
        let igmp = Packet::new(A.mac, MacAddr([1, 0, 0x5e, 0, 0, 22]), A.v4(), ip("224.0.0.22")).ttl(1);
        w.absorbed(&A, &igmp.raw(heddle_wire::Proto(2), &[0x22; 16]), "multicast-listener");
    });
}

#[test]
fn a_pod_is_no_router_and_no_multicast_source() {
    worlds(|w| {
        let group = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
        let all = Packet::new(A.mac, group, ip(LINK_LOCAL), ip(ALL_NODES)).ttl(255);
        w.dropped(&A, &all.icmp(134, 0, [64, 0, 0, 0], &[0; 8]), "spoofed-neighbor");
        w.dropped(&A, &all.udp(5353, 5353, b"x"), "multicast");
        let mdns = Packet::new(A.mac, MacAddr([1, 0, 0x5e, 0, 0, 0xfb]), A.v4(), ip("224.0.0.251"));
        w.dropped(&A, &mdns.udp(5353, 5353, b"x"), "multicast");
        let broadcast = Packet::new(A.mac, MacAddr::BROADCAST, A.v4(), ip("255.255.255.255"));
        w.dropped(&A, &broadcast.udp(68, 67, b"x"), "multicast");
        let tricky = Packet::new(A.mac, MacAddr::BROADCAST, A.v4(), B.v4());
        w.dropped(&A, &tricky.udp(68, 67, b"x"), "multicast");
    });
}

#[test]
fn link_messages_of_the_host_are_absorbed() {
    worlds(|w| {
        let mdns = Packet::new(
            HOST.mac,
            MacAddr([1, 0, 0x5e, 0, 0, 0xfb]),
            HOST.v4(),
            ip("224.0.0.251"),
        );
        w.absorbed(&HOST, &mdns.udp(5353, 5353, b"x"), "host-link");
        let own = ip("10.0.255.1");
        w.absorbed(&HOST, &arp_request(HOST.mac, own, own), "neighbor-announcement");
        w.absorbed(
            &HOST,
            &arp_request(HOST.mac, Ip::from_v4([0; 4]), own),
            "duplicate-address-detection",
        );
    });
}

#[test]
fn a_frame_to_another_mac_is_not_routed() {
    worlds(|w| {
        let direct = Packet::new(A.mac, B.mac, A.v4(), B.v4());
        w.dropped(&A, &direct.udp(1, 2, b"x"), "not-for-gateway");
        let elsewhere = Packet::new(HOST.mac, mac(9), HOST.v4(), B.v4());
        w.dropped(&HOST, &elsewhere.udp(1, 2, b"x"), "not-for-gateway");
    });
}
