//! NetworkPolicy on packets: allowed, denied on either side, changed in the middle of a connection, not ready.

use heddle_tables::{Cell, Direction, EndpointPolicy};
use heddle_wire::TcpFlags;
use heddle_wire::testing::ip;
use std::sync::Arc;

use crate::drops::denied;
use crate::forwarding::addresses;
use crate::services::serve;
use crate::tables::{A, B, C, HOST, RULE, isolate, isolate_with};
use crate::world::worlds;

#[test]
fn ingress_lets_in_who_is_named_and_nobody_else() {
    worlds(|w| {
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 80)])));
        for b in addresses(&B) {
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            w.dropped(
                &A,
                &A.to(b).tcp(1000, 81, TcpFlags::SYN, 1, 0, b""),
                "policy-denied-ingress",
            );
            w.dropped(
                &C,
                &C.to(b).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""),
                "policy-denied-ingress",
            );
            w.dropped(&A, &A.to(b).echo_request(1, 1, b"x"), "policy-denied-ingress");
        }
        assert_eq!(w.connections(), 2);
    });
}

#[test]
fn egress_lets_out_to_who_is_named_and_nobody_else() {
    worlds(|w| {
        w.set_policy(&A, Some(isolate(Direction::Egress, &[(&B, 80)])));
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        w.dropped(
            &A,
            &A.to(C.v4()).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""),
            "policy-denied-egress",
        );
        w.dropped(
            &A,
            &A.to(ip("198.51.100.7")).udp(1000, 53, b"x"),
            "policy-denied-egress",
        );
        // The own node is always allowed.
        w.pass(&A, &HOST, &A.to(HOST.v4()).udp(1000, 53, b"x"));
    });
}

#[test]
fn replies_need_no_rule_of_their_own() {
    worlds(|w| {
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        w.set_policy(&B, Some(isolate(Direction::Egress, &[])));
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            w.pass(&A, &B, &A.to(b).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            w.pass(&B, &A, &B.to(a).tcp(80, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b""));
            w.pass(&A, &B, &A.to(b).echo_request(7, 1, b"x"));
            w.pass(&B, &A, &B.to(a).echo_reply(7, 1, b"x"));
            w.dropped(
                &B,
                &B.to(a).tcp(80, 1001, TcpFlags::SYN, 1, 0, b""),
                "policy-denied-egress",
            );
        }
    });
}

#[test]
fn policy_sees_the_backend_behind_the_service() {
    worlds(|w| {
        serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 8080)])));
        w.set_policy(&A, Some(isolate(Direction::Egress, &[(&B, 8080)])));
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        w.dropped(
            &C,
            &C.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""),
            "policy-denied-ingress",
        );
        w.set_policy(&A, Some(isolate(Direction::Egress, &[(&B, 80)])));
        w.dropped(
            &A,
            &A.to(vip).tcp(1001, 80, TcpFlags::SYN, 1, 0, b""),
            "policy-denied-egress",
        );
    });
}

#[test]
fn a_flow_that_is_no_longer_allowed_stops_and_the_others_go_on() {
    worlds(|w| {
        serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        w.pass(&C, &B, &C.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&C, 8080)])));
        w.dropped(
            &A,
            &A.to(vip).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"x"),
            "policy-denied-ingress",
        );
        w.dropped(
            &B,
            &B.to(A.v4()).tcp(8080, 1000, TcpFlags::ACK, 2, 2, b"y"),
            "policy-denied-ingress",
        );
        // The other one goes on, translated as before, although its Service has gone elsewhere.
        serve(w, &[&A]);
        let (_, p) = w.pass(&C, &B, &C.to(vip).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"x"));
        assert_eq!((p.dst, p.dport), (B.v4(), 8080));
        let (_, p) = w.pass(&B, &C, &B.to(C.v4()).tcp(8080, 1000, TcpFlags::ACK, 2, 2, b"x"));
        assert_eq!((p.src, p.sport), (vip, 80));
        // Once it is allowed again, so does the first, translated as before.
        w.set_policy(&B, Some(Arc::new(EndpointPolicy::open())));
        let (_, p) = w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"x"));
        assert_eq!((p.dst, p.dport), (B.v4(), 8080));
        assert_eq!(w.connections(), 2);
    });
}

#[test]
fn a_reply_is_judged_by_the_direction_of_its_connection() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        // B may not open connections any more, A may not be reached: neither concerns the answer.
        w.set_policy(&B, Some(isolate(Direction::Egress, &[])));
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        w.pass(&B, &A, &B.to(A.v4()).udp(53, 1000, b"y"));
        // Now the connection itself is forbidden, and its answer finds that out.
        w.set_policy(&A, Some(isolate(Direction::Egress, &[])));
        w.dropped(&B, &B.to(A.v4()).udp(53, 1000, b"y"), "policy-denied-egress");
        assert_eq!(w.connections(), 1);
    });
}

/// A NetworkPolicy cannot block a pod from itself; a rule of a ClusterNetworkPolicy can, behind a Service.
#[test]
fn a_pod_is_kept_from_itself_by_a_rule_that_denies_and_by_no_isolation() {
    for (direction, reason) in [
        (Direction::Egress, "policy-denied-egress"),
        (Direction::Ingress, "policy-denied-ingress"),
    ] {
        worlds(|w| {
            serve(w, &[&A]);
            let (vip, gateway) = (ip("10.96.0.10"), ip("169.254.1.1"));
            let syn = |sport| A.to(vip).tcp(sport, 80, TcpFlags::SYN, 1, 0, b"");
            let request = A.to(vip).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"x");
            let answer = A.to(gateway).tcp(8080, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
            w.set_policy(&A, Some(isolate(direction, &[])));
            w.pass(&A, &A, &syn(1000));
            w.pass(&A, &A, &answer);

            // The rule denies the backend's port. It stops the connection in both directions, and new ones.
            let denying = |port| Some(isolate_with(direction, Cell::deny(RULE), &[(&A, port)]));
            w.set_policy(&A, denying(8080));
            w.dropped(&A, &request, reason);
            w.dropped(&A, &answer, reason);
            w.dropped(&A, &syn(1001), reason);
            assert_eq!(denied(w), [(RULE, A.endpoint, 3)]);
            assert_eq!(w.connections(), 1);

            // The rule denies the port of the Service, which policy does not see.
            w.set_policy(&A, denying(80));
            w.pass(&A, &A, &request);
            w.pass(&A, &A, &syn(1001));
        });
    }
}

#[test]
fn a_pod_without_compiled_policy_is_closed_both_ways() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        w.set_policy(&B, None);
        w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "policy-not-ready");
        w.dropped(&A, &A.to(B.v4()).udp(1001, 53, b"x"), "policy-not-ready");
        w.dropped(&B, &B.to(A.v4()).udp(1000, 53, b"x"), "policy-not-ready");
        w.dropped(&B, &B.to(HOST.v4()).udp(1000, 53, b"x"), "policy-not-ready");
        w.dropped(&HOST, &HOST.to(B.v4()).udp(1000, 53, b"x"), "policy-not-ready");
        w.set_policy(&B, Some(Arc::new(EndpointPolicy::open())));
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
    });
}

#[test]
fn a_pod_always_reaches_itself() {
    worlds(|w| {
        serve(w, &[&A]);
        let closed = isolate(Direction::Ingress, &[]);
        let ingress = closed.side(Direction::Ingress).clone();
        w.set_policy(&A, Some(Arc::new(EndpointPolicy::new(ingress.clone(), ingress))));
        w.pass(&A, &A, &A.to(ip("10.96.0.10")).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        w.dropped(
            &A,
            &A.to(B.v4()).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""),
            "policy-denied-egress",
        );
    });
}

#[test]
fn new_tables_are_taken_without_a_packet() {
    worlds(|w| {
        let before = w.node.publisher().acknowledged();
        w.publish();
        assert_eq!(w.node.publisher().acknowledged(), before);
        w.step();
        assert!(
            w.node.publisher().acknowledged() > before,
            "who attaches a pod waits for this"
        );
    });
}

#[test]
fn protocols_without_ports_go_by_addresses() {
    use heddle_wire::Proto;
    worlds(|w| {
        // ESP, GRE, IP in IP.
        for proto in [50, 47, 4].map(Proto) {
            for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
                w.pass(&A, &B, &A.to(b).raw(proto, &[1; 40]));
                w.pass(&B, &A, &B.to(a).raw(proto, &[2; 40]));
            }
        }
        // A rule for a port allows none of them.
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 80)])));
        w.dropped(&A, &A.to(B.v4()).raw(Proto(50), &[1; 40]), "policy-denied-ingress");
        // IGMP is the link's.
        w.dropped(&A, &A.to(B.v4()).raw(Proto(2), &[0x11; 8]), "unsupported-protocol");
    });
}

#[test]
fn an_association_from_the_other_side_is_judged_as_a_new_one() {
    worlds(|w| {
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        let init = [1, 0, 0, 20, 0, 0, 0, 9, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1];
        let data = [0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'd', b'a', b't', b'a'];
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            w.pass(&A, &B, &A.to(b).sctp(1000, 80, 0, &init));
            w.pass(&B, &A, &B.to(a).sctp(80, 1000, 7, &data));
            w.dropped(&B, &B.to(a).sctp(80, 1000, 0, &init), "policy-denied-ingress");
            w.pass(&B, &A, &B.to(a).sctp(80, 1000, 7, &data));
        }
    });
}
