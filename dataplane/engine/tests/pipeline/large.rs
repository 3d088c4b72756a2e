//! Packets of many frames, and packets that are larger than the path's MTU.

use heddle_tables::Generation;
use heddle_wire::parse::quoted;
use heddle_wire::testing::ip;
use heddle_wire::{Ip, TcpFlags, parse, tcp};

use crate::forwarding::addresses;
use crate::services::serve;
use crate::tables::{A, B, HOST, LOCAL_MTU, Party, UPLINK_MTU, endpoint};
use crate::world::{World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
}

/// Returns the length of the IP and the UDP header for an address's family.
fn headers(ip: Ip) -> usize {
    if ip.is_v4() { 28 } else { 48 }
}

/// Returns the MSS option of a segment.
fn mss(frame: &[u8]) -> Option<u16> {
    let p = parse(frame, frame.len()).unwrap();
    tcp::mss(frame, &p).map(|(_, mss)| mss)
}

/// Returns the MTU in an ICMP fragmentation needed or packet too big.
fn mtu_in_error(frame: &[u8]) -> u16 {
    let p = parse(frame, frame.len()).unwrap();
    u16::from_be_bytes([frame[p.l4() + 6], frame[p.l4() + 7]])
}

#[test]
fn the_largest_packet_crosses_the_node_with_its_checksum_finished() {
    worlds(|w| {
        serve(w, &[&B]);
        for (dst, vip) in addresses(&B).into_iter().zip(["10.96.0.10", "fd96::10"].map(ip)) {
            let payload = pattern(usize::from(LOCAL_MTU) - headers(dst));
            for frame in [
                A.to(dst).partial().udp(1000, 53, &payload),
                A.to(dst).udp(1000, 53, &payload),
                A.to(vip).partial().udp(1000, 80, &payload),
                A.to(vip).udp(1000, 80, &payload),
            ] {
                let (out, _) = w.pass(&A, &B, &frame);
                assert!(out.ends_with(&payload));
            }
            // 18 frames, the most.
            w.pushed_split(&A, &A.to(dst).partial().udp(1001, 53, &payload), 3400);
            w.step();
            assert!(w.pop(&B).ends_with(&payload));
            w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
        }
    });
}

#[test]
fn headers_beyond_the_head_frame_are_not_looked_for() {
    worlds(|w| {
        for dst in addresses(&B) {
            w.pushed_split(&A, &A.to(dst).tcp(1000, 80, SYN, 1, 0, b"x"), 40);
            w.step();
            w.changed(&["a rx 1", "a dropped headers-split 1"]);
        }
    });
}

/// Sends a SYN and a SYN-ACK, and returns their MSS options as they arrive.
fn handshake(w: &mut World, from: &Party, to: &Party, dst: Ip, sport: u16, says: u16) -> [u16; 2] {
    let syn = from.to(dst).partial().mss(says).tcp(sport, 80, SYN, 1, 0, b"");
    let (out, p) = w.pass(from, to, &syn);
    let there = mss(&out).unwrap();
    let answer = heddle_wire::testing::Packet::new(to.mac, heddle_wire::MacAddr::GATEWAY, p.dst, p.src)
        .mss(says)
        .tcp(p.dport, p.sport, SYN | ACK, 1, 2, b"");
    let (out, _) = w.pass(to, from, &answer);
    [there, mss(&out).unwrap()]
}

#[test]
fn segments_are_clamped_to_what_the_way_takes() {
    worlds(|w| {
        serve(w, &[&HOST]);
        let lists = [addresses(&B), addresses(&HOST), ["10.96.0.10", "fd96::10"].map(ip)];
        for (n, b, host, vip) in [
            (0, lists[0][0], lists[1][0], lists[2][0]),
            (1, lists[0][1], lists[1][1], lists[2][1]),
        ] {
            let headers = [40, 60][n];
            let (local, uplink) = (LOCAL_MTU - headers, UPLINK_MTU - headers);
            assert_eq!(handshake(w, &A, &B, b, 1000, local), [local; 2], "what fits stays");
            assert_eq!(handshake(w, &A, &B, b, 1001, 65_000), [local; 2]);
            assert_eq!(handshake(w, &A, &B, b, 1002, 536), [536; 2]);
            assert_eq!(handshake(w, &A, &HOST, host, 1003, local), [uplink; 2]);
            assert_eq!(handshake(w, &HOST, &A, A.ip(b), 1004, 8960), [uplink; 2]);
            assert_eq!(
                handshake(w, &A, &HOST, vip, 1005, local),
                [uplink; 2],
                "through a Service"
            );
        }
        // Without the option there is nothing to clamp.
        let (out, _) = w.pass(&A, &HOST, &A.to(HOST.v4()).tcp(1007, 80, SYN, 1, 0, b""));
        assert_eq!(mss(&out), None);
    });
}

#[test]
fn packets_that_must_not_be_fragmented_get_an_error_with_the_mtu() {
    worlds(|w| {
        for (dst, mtu) in [
            (HOST.v4(), UPLINK_MTU),
            (HOST.v6(), UPLINK_MTU),
            (ip("198.51.100.7"), UPLINK_MTU),
            (ip("2001:db8:ffff::7"), UPLINK_MTU),
        ] {
            let fits = usize::from(mtu) - headers(dst);
            w.pass(&A, &HOST, &A.to(dst).udp(1000, 53, &pattern(fits)));
            for len in [fits + 1, 9000, usize::from(LOCAL_MTU) - headers(dst)] {
                let (out, p) = w.answered(&A, &A.to(dst).partial().udp(1000, 53, &pattern(len)), "too-big");
                assert_eq!((mtu_in_error(&out), p.dst), (mtu, A.ip(dst)));
                assert_eq!(
                    quoted(&out, &p).unwrap().tuple(),
                    heddle_wire::rewrite::Tuple {
                        src: A.ip(dst),
                        dst,
                        sport: 1000,
                        dport: 53,
                    }
                );
            }
        }
        // A packet to a Service is quoted as the pod sent it.
        serve(w, &[&HOST]);
        for vip in ["10.96.0.10", "fd96::10"].map(ip) {
            let (out, p) = w.answered(&A, &A.to(vip).udp(1000, 80, &pattern(2000)), "too-big");
            assert_eq!((mtu_in_error(&out), quoted(&out, &p).unwrap().dst), (UPLINK_MTU, vip));
        }
    });
}

#[test]
fn live_connections_learn_that_their_way_takes_less_now() {
    worlds(|w| {
        let from = handshake(w, &A, &HOST, HOST.v4(), 1000, 1460);
        assert_eq!(from, [1460; 2]);
        let full = A.to(HOST.v4()).tcp(1000, 80, ACK, 2, 2, &pattern(1460));
        w.pass(&A, &HOST, &full);
        let mut host = endpoint(&HOST, heddle_tables::WorkerId(0), Generation(9), None);
        host.mtu = 1400;
        w.tables.set_endpoint(host);
        w.publish();
        let (out, _) = w.answered(&A, &full, "too-big");
        assert_eq!(mtu_in_error(&out), 1400);
        w.pass(&A, &HOST, &A.to(HOST.v4()).tcp(1000, 80, ACK, 2, 2, &pattern(1360)));
    });
}
