//! ClusterIP: to a backend and back, to oneself, refused, and from the host.

use heddle_tables::Place;
use heddle_wire::testing::ip;
use heddle_wire::{Ip, Proto, TcpFlags};

use crate::tables::{A, B, C, HOST, MASQUERADE_PORTS, MASQUERADE_V4, MASQUERADE_V6, Party, frontend};
use crate::world::{World, worlds};

const WEB: [&str; 2] = ["10.96.0.10", "fd96::10"];

/// A Service on port 80, both families and protocols, with `backends` on port 8080.
pub fn serve(w: &mut World, backends: &[&Party]) {
    for vip in WEB {
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            let list: Vec<(Ip, u16)> = backends.iter().map(|b| (b.ip(ip(vip)), 8080)).collect();
            w.tables.set_frontend(frontend(vip, proto, 80, &list, false));
        }
    }
    w.publish();
}

#[test]
fn a_service_leads_to_its_backend_and_the_answer_comes_from_the_service() {
    worlds(|w| {
        serve(w, &[&B]);
        for vip in WEB.map(ip) {
            let (_, p) = w.pass(&A, &B, &A.to(vip).partial().tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            assert_eq!((p.src, p.dst, p.sport, p.dport), (A.ip(vip), B.ip(vip), 1000, 8080));
            let answer = B
                .to(A.ip(vip))
                .partial()
                .tcp(8080, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
            let (_, p) = w.pass(&B, &A, &answer);
            assert_eq!((p.src, p.dst, p.sport, p.dport), (vip, A.ip(vip), 80, 1000));
            // The same with checksums that only need a delta.
            w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"GET /"));
            w.pass(&B, &A, &B.to(A.ip(vip)).tcp(8080, 1000, TcpFlags::ACK, 2, 7, b"hello"));
        }
        assert_eq!(w.connections(), 2);
    });
}

#[test]
fn udp_and_sctp_are_translated_too() {
    worlds(|w| {
        serve(w, &[&B]);
        for vip in WEB.map(ip) {
            w.pass(&A, &B, &A.to(vip).udp(1000, 80, b"question"));
            w.pass(&B, &A, &B.to(A.ip(vip)).udp(8080, 1000, b"answer"));
            let data = [0, 3, 0, 8, 1, 2, 3, 4];
            let (_, p) = w.pass(&A, &B, &A.to(vip).sctp(1000, 80, 7, &data));
            assert_eq!((p.dst, p.dport), (B.ip(vip), 8080));
            let (_, p) = w.pass(&B, &A, &B.to(A.ip(vip)).partial().sctp(8080, 1000, 7, &data));
            assert_eq!((p.src, p.sport), (vip, 80));
        }
    });
}

#[test]
fn a_connection_keeps_its_backend_while_backends_come_and_go() {
    worlds(|w| {
        serve(w, &[&B]);
        let vip = ip(WEB[0]);
        w.pass(&A, &B, &A.to(vip).udp(1000, 80, b"1"));
        serve(w, &[&C]);
        w.pass(&A, &B, &A.to(vip).udp(1000, 80, b"2"));
        w.pass(&A, &C, &A.to(vip).udp(1001, 80, b"1"));
    });
}

#[test]
fn every_backend_gets_some_of_the_connections() {
    worlds(|w| {
        serve(w, &[&B, &C]);
        let vip = ip(WEB[0]);
        for sport in 2000..2040 {
            w.push(&A, &A.to(vip).udp(sport, 80, b"x"));
        }
        w.step();
        let mut reached = [0_u32; 2];
        for line in w.changes() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["b", "tx", n] => reached[0] = n.parse().unwrap(),
                ["c", "tx", n] => reached[1] = n.parse().unwrap(),
                _ => {}
            }
        }
        assert_eq!(reached[0] + reached[1], 40);
        assert!(reached.iter().all(|n| *n > 5), "{reached:?}");
        for (pod, n) in [(&B, reached[0]), (&C, reached[1])] {
            for _ in 0..n {
                w.pop(pod);
            }
        }
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    worlds(|w| {
        serve(w, &[&A]);
        // No link-local address: an answer to one would have the pod's link-local source.
        for (vip, seen) in WEB.map(ip).into_iter().zip(["169.254.1.1", MASQUERADE_V6]) {
            let own = A.ip(vip);
            let (_, p) = w.pass(&A, &A, &A.to(vip).partial().tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            assert_eq!((p.src, p.dst, p.sport, p.dport), (ip(seen), own, 1000, 8080));
            let answer = A
                .to(ip(seen))
                .partial()
                .tcp(8080, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
            let (_, p) = w.pass(&A, &A, &answer);
            assert_eq!((p.src, p.dst, p.sport, p.dport), (vip, own, 80, 1000));
        }
    });
}

#[test]
fn two_services_with_one_backend_keep_one_client_port_apart() {
    worlds(|w| {
        serve(w, &[&B]);
        w.tables
            .set_frontend(frontend("10.96.0.11", Proto::TCP, 80, &[(B.v4(), 8080)], false));
        w.publish();
        let (_, first) = w.pass(&A, &B, &A.to(ip(WEB[0])).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        let (_, second) = w.pass(&A, &B, &A.to(ip("10.96.0.11")).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        assert_eq!(first.sport, 1000);
        assert_ne!(second.sport, 1000);
        for (sport, vip) in [(first.sport, WEB[0]), (second.sport, "10.96.0.11")] {
            let answer = B.to(A.v4()).tcp(8080, sport, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
            let (_, p) = w.pass(&B, &A, &answer);
            assert_eq!((p.src, p.sport, p.dport), (ip(vip), 80, 1000));
        }
    });
}

#[test]
fn a_service_without_endpoints_or_port_refuses_at_once() {
    worlds(|w| {
        serve(w, &[]);
        for vip in WEB.map(ip) {
            for port in [80, 81] {
                let (out, p) = w.answered(&A, &A.to(vip).tcp(1000, port, TcpFlags::SYN, 5, 0, b""), "reject-reset");
                assert_eq!((p.src, p.dst, p.sport, p.dport), (vip, A.ip(vip), port, 1000));
                assert_eq!(p.tcp_flags, TcpFlags::RST | TcpFlags::ACK);
                assert_eq!(heddle_wire::tcp::acknowledgment(&out, &p), Some(6));
                let (_, p) = w.answered(&A, &A.to(vip).udp(1000, port, b"x"), "reject-unreachable");
                assert_eq!((p.src, p.dst), (vip, A.ip(vip)));
                assert_eq!((p.icmp_type, p.icmp_code), if vip.is_v4() { (3, 3) } else { (1, 4) });
            }
            w.answered(&A, &A.to(vip).echo_request(1, 1, b"ping"), "reject-unreachable");
        }
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn endpoints_that_are_all_elsewhere_drop() {
    worlds(|w| {
        w.tables.set_frontend(frontend(WEB[0], Proto::TCP, 80, &[], true));
        w.publish();
        let syn = A.to(ip(WEB[0])).tcp(1000, 80, TcpFlags::SYN, 1, 0, b"");
        w.dropped(&A, &syn, "service-no-local-endpoint");
    });
}

#[test]
fn the_host_reaches_a_service_of_pods_under_its_own_address() {
    worlds(|w| {
        serve(w, &[&B]);
        for vip in WEB.map(ip) {
            let (_, p) = w.pass(
                &HOST,
                &B,
                &HOST.to(vip).partial().tcp(1000, 80, TcpFlags::SYN, 1, 0, b""),
            );
            assert_eq!((p.src, p.dst, p.sport, p.dport), (HOST.ip(vip), B.ip(vip), 1000, 8080));
            let answer = B
                .to(HOST.ip(vip))
                .tcp(8080, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
            let (_, p) = w.pass(&B, &HOST, &answer);
            assert_eq!((p.src, p.sport), (vip, 80));
        }
    });
}

#[test]
fn the_host_reaches_a_service_that_no_pod_serves_masqueraded() {
    worlds(|w| {
        let vip = "10.96.0.1";
        w.tables
            .set_frontend(frontend(vip, Proto::TCP, 443, &[(HOST.v4(), 6443)], false));
        w.tables.set_frontend(frontend(
            "fd96::1",
            Proto::TCP,
            443,
            &[(ip("2001:db8:9::9"), 6443)],
            false,
        ));
        w.publish();
        for (vip, backend, masquerade) in [
            (vip, HOST.v4(), MASQUERADE_V4),
            ("fd96::1", ip("2001:db8:9::9"), MASQUERADE_V6),
        ] {
            let vip = ip(vip);
            let (_, p) = w.pass(
                &HOST,
                &HOST,
                &HOST.to(vip).partial().tcp(1000, 443, TcpFlags::SYN, 1, 0, b""),
            );
            assert_eq!((p.src, p.dst, p.dport), (ip(masquerade), backend, 6443));
            assert!((MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1).contains(&p.sport));
            let packet =
                heddle_wire::testing::Packet::new(HOST.mac, heddle_wire::MacAddr::GATEWAY, backend, ip(masquerade));
            let answer = packet.tcp(6443, p.sport, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
            let (_, p) = w.pass(&HOST, &HOST, &answer);
            assert_eq!((p.src, p.dst, p.sport, p.dport), (vip, HOST.ip(vip), 443, 1000));
        }
    });
}

#[test]
fn masquerade_ports_that_are_used_up_refuse_the_next_connection() {
    worlds(|w| {
        w.tables
            .set_frontend(frontend("10.96.0.1", Proto::TCP, 443, &[(HOST.v4(), 6443)], false));
        w.publish();
        let syn = |sport| HOST.to(ip("10.96.0.1")).tcp(sport, 443, TcpFlags::SYN, 1, 0, b"");
        let mut ports: Vec<u16> = (1000..1004)
            .map(|sport| w.pass(&HOST, &HOST, &syn(sport)).1.sport)
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, (MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1).collect::<Vec<u16>>());
        w.dropped(&HOST, &syn(1004), "flow-ports-used-up");
    });
}

#[test]
fn a_service_reached_from_outside_is_masqueraded() {
    worlds(|w| {
        serve(w, &[&B]);
        let outside = ip("198.51.100.7");
        assert_eq!(w.tables.current().address(outside).place, Place::Outside);
        let frame = heddle_wire::testing::Packet::new(HOST.mac, heddle_wire::MacAddr::GATEWAY, outside, ip(WEB[0]))
            .tcp(1000, 80, TcpFlags::SYN, 1, 0, b"");
        let (_, p) = w.pass(&HOST, &B, &frame);
        assert_eq!((p.src, p.dst, p.dport), (ip(MASQUERADE_V4), B.v4(), 8080));
        let answer = B
            .to(ip(MASQUERADE_V4))
            .tcp(8080, p.sport, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
        let (_, p) = w.pass(&B, &HOST, &answer);
        assert_eq!((p.src, p.dst, p.sport, p.dport), (ip(WEB[0]), outside, 80, 1000));
    });
}
