//! Pods reach pods and the host, in both families and with every protocol. The headers are compared.

use heddle_wire::testing::ip;
use heddle_wire::{Ip, TcpFlags};

use crate::tables::{A, B, C, HOST, Party};
use crate::world::{World, worlds};

/// Returns a party's addresses of both families.
pub fn addresses(p: &Party) -> [Ip; 2] {
    [p.v4(), p.v6()]
}

#[test]
fn a_udp_datagram_reaches_another_pod_and_so_does_its_answer() {
    worlds(|w| {
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            let (_, p) = w.pass(&A, &B, &A.to(b).udp(1000, 53, b"question"));
            assert_eq!((p.src, p.dst, p.sport, p.dport, p.ttl), (a, b, 1000, 53, 63));
            let (_, p) = w.pass(&B, &A, &B.to(a).udp(53, 1000, b"answer"));
            assert_eq!((p.src, p.dst, p.sport, p.dport, p.ttl), (b, a, 53, 1000, 63));
        }
        assert_eq!(w.connections(), 2);
    });
}

#[test]
fn a_tcp_connection_goes_through_its_whole_life() {
    worlds(|w| {
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            let (syn, ack, fin) = (TcpFlags::SYN, TcpFlags::ACK, TcpFlags::FIN);
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, syn, 1, 0, b""));
            w.pass(&B, &A, &B.to(a).tcp(80, 1000, syn | ack, 1, 2, b""));
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, ack, 2, 2, b"GET /"));
            w.pass(&B, &A, &B.to(a).tcp(80, 1000, ack, 2, 7, b"hello"));
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, fin | ack, 7, 7, b""));
            w.pass(&B, &A, &B.to(a).tcp(80, 1000, fin | ack, 7, 8, b""));
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, ack, 8, 8, b""));
        }
    });
}

#[test]
fn sctp_leaves_with_a_crc() {
    worlds(|w| {
        for b in addresses(&B) {
            let init = [1, 0, 0, 8, 1, 2, 3, 4];
            w.pass(&A, &B, &A.to(b).sctp(1000, 80, 0, &init));
            w.pass(&A, &B, &A.to(b).partial().sctp(1000, 80, 0, &init));
        }
    });
}

#[test]
fn a_partial_checksum_is_finished() {
    worlds(|w| {
        for to in [&B, &HOST] {
            for dst in addresses(to) {
                w.pass(&A, to, &A.to(dst).partial().udp(1000, 53, b"odd"));
                w.pass(&A, to, &A.to(dst).partial().udp(1000, 53, b"even"));
                w.pass(&A, to, &A.to(dst).partial().tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            }
        }
    });
}

#[test]
fn a_udp_datagram_without_checksum_keeps_having_none() {
    worlds(|w| {
        let zero = heddle_wire::testing::Checksum::Zero;
        let (out, p) = w.pass(&A, &B, &A.to(B.v4()).checksum(zero).udp(1000, 53, b"x"));
        assert_eq!(&out[p.l4() + 6..p.l4() + 8], [0, 0]);
    });
}

#[test]
fn a_packet_of_several_frames_is_finished_and_arrives_whole() {
    worlds(|w| {
        let payload: Vec<u8> = (0..2500_u32).map(|n| n as u8).collect();
        for chunk in [200, 333, 1000] {
            let frame = A.to(B.v4()).partial().udp(1000, 53, &payload);
            w.pushed_split(&A, &frame, chunk);
            w.step();
            let out = w.pop(&B);
            assert!(out.ends_with(&payload));
            w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
        }
    });
}

#[test]
fn pods_reach_the_host_and_the_outside_by_the_host_port() {
    worlds(|w| {
        for outside in ["198.51.100.7", "2001:db8:ffff::7"] {
            w.pass(&A, &HOST, &A.to(ip(outside)).udp(1000, 53, b"x"));
        }
        for host in addresses(&HOST) {
            w.pass(&C, &HOST, &C.to(host).tcp(1000, 22, TcpFlags::SYN, 1, 0, b""));
        }
        // The cloud's metadata address.
        w.pass(&B, &HOST, &B.to(ip("169.254.169.254")).udp(1000, 53, b"x"));
    });
}

#[test]
fn an_address_that_no_pod_has_leads_nowhere() {
    worlds(|w| {
        w.dropped(&A, &A.to(ip("10.0.0.99")).udp(1, 2, b"x"), "unknown-destination");
        w.dropped(&A, &A.to(ip("fd00::99")).udp(1, 2, b"x"), "unknown-destination");
        w.dropped(&A, &A.to(ip("10.96.9.9")).udp(1, 2, b"x"), "unknown-destination");
        w.dropped(&A, &A.to(A.v4()).udp(1, 2, b"x"), "no-route");
        w.dropped(&A, &A.to(ip("fe80::99")).udp(1, 2, b"x"), "martian");
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn the_last_hop_is_answered_from_the_gateway() {
    worlds(|w| {
        for (dst, gateway) in addresses(&B).into_iter().zip(["169.254.1.1", "fe80::1"]) {
            let (out, p) = w.answered(&A, &A.to(dst).ttl(1).udp(1000, 33434, b"trace"), "time-exceeded");
            assert_eq!((p.src, p.dst), (ip(gateway), A.ip(dst)));
            let inner = heddle_wire::parse::quoted(&out, &p).unwrap();
            assert_eq!(
                (inner.src, inner.dst, inner.sport, inner.dport),
                (A.ip(dst), dst, 1000, 33434)
            );
            // Also in the middle of a flow.
            w.pass(&A, &B, &A.to(dst).ttl(2).udp(1000, 33434, b"trace"));
            w.answered(&A, &A.to(dst).ttl(1).udp(1000, 33434, b"trace"), "time-exceeded");
        }
    });
}

#[test]
fn errors_are_bounded_in_time_and_for_each_port() {
    let mut w = World::new(crate::world::Options {
        stages: heddle_engine::StageConfig {
            errors: heddle_engine::ErrorLimits {
                per_second: 10,
                burst: 2,
            },
            ..Default::default()
        },
        ..Default::default()
    });
    let trace =
        |from: &crate::tables::Party, to: &crate::tables::Party| from.to(to.v4()).ttl(1).udp(1000, 33434, b"trace");
    for _ in 0..5 {
        w.push(&A, &trace(&A, &B));
    }
    w.step();
    for _ in 0..2 {
        w.pop(&A);
    }
    w.changed(&[
        "a rx 5",
        "a tx 2",
        "a answered time-exceeded 2",
        "a dropped ttl-exceeded 3",
    ]);
    // Another turn brings no new budget, another port has its own, and time fills it again.
    w.dropped(&A, &trace(&A, &B), "ttl-exceeded");
    w.answered(&B, &trace(&B, &A), "time-exceeded");
    w.now = w.now.plus(100);
    w.answered(&A, &trace(&A, &B), "time-exceeded");
    w.dropped(&A, &trace(&A, &B), "ttl-exceeded");
}

#[test]
fn octets_behind_the_packet_do_not_leave() {
    worlds(|w| {
        for b in addresses(&B) {
            let mut frame = A.to(b).udp(1000, 53, b"payload");
            let whole = frame.len();
            frame.extend_from_slice(&[0xaa; 300]);
            let (out, _) = w.pass(&A, &B, &frame);
            assert_eq!(out.len(), whole);
        }
    });
}

#[test]
fn a_reused_port_number_does_not_get_the_old_pods_packets() {
    // The snapshot still says that B is behind port 11, but that port is another pod's now.
    let mut w = World::new(crate::world::Options {
        workers: 2,
        ..Default::default()
    });
    let removed = w.node.handles()[1].remove_port(B.port).unwrap();
    w.turn(1);
    drop(removed.recv().unwrap().unwrap());
    w.add_port(1, B.port, heddle_engine::PortRole::Pod(C.endpoint));
    w.dropped(&A, &A.to(B.v4()).udp(1, 2, b"x"), "port-closed");
}
