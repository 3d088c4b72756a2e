//! Adoption: for a while after a start without a flow table, mid-stream connections are adopted if policy allows them.

use heddle_engine::StageConfig;
use heddle_flow::Millis;
use heddle_tables::Direction;
use heddle_wire::TcpFlags;
use heddle_wire::testing::ip;

use crate::nodes::{CLIENT, N1, N3};
use crate::services::serve;
use crate::tables::{A, B, HOST, UPLINK, isolate};
use crate::world::{Options, World};

const ACK: TcpFlags = TcpFlags::ACK;
const SYN: TcpFlags = TcpFlags::SYN;

fn just_started(test: impl Fn(&mut World)) {
    for workers in 1..=3 {
        let stages = StageConfig {
            adopt_until: Millis(1_300_000),
            ..StageConfig::default()
        };
        test(&mut World::new(Options {
            workers,
            stages,
            ..Options::default()
        }));
    }
}

#[test]
fn a_connection_is_adopted_from_either_side() {
    just_started(|w| {
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b"x"));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, ACK, 2, 2, b"y"));
        w.pass(&B, &HOST, &B.to(HOST.v6()).tcp(80, 1000, ACK, 2, 2, b"y"));
        w.pass(&HOST, &B, &HOST.to(B.v6()).tcp(1000, 80, ACK, 2, 2, b"x"));
        assert_eq!(w.connections(), 2);
    });
}

#[test]
fn through_a_service_the_hash_chooses_again() {
    just_started(|w| {
        serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, ACK, 2, 2, b"x"));
        let (_, p) = w.pass(&B, &A, &B.to(A.v4()).tcp(8080, 1000, ACK, 2, 2, b"y"));
        assert_eq!((p.src, p.sport), (vip, 80));
    });
}

#[test]
fn a_segment_to_the_outside_by_the_tunnel_is_no_reply_of_a_masqueraded_connection() {
    just_started(|w| {
        for (node, own) in [(N1, HOST.v4()), (N3, HOST.v6())] {
            let outside = ip(if own.is_v4() { CLIENT } else { "2001:db8:ffff::7" });
            let segment = node.pod_to(outside).tcp(80, 1000, ACK, 2, 2, b"y");
            w.dropped(&UPLINK, &node.encapsulate(&segment), "no-route");
        }
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn an_answer_to_a_services_address_belongs_to_nobody() {
    just_started(|w| {
        serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.answered(&A, &A.to(vip).tcp(1000, 40_000, SYN | ACK, 2, 2, b""), "tcp-reset");
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn the_server_may_speak_first_where_only_the_client_may_open() {
    just_started(|w| {
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 80)])));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, ACK, 2, 2, b"y"));
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b"x"));
    });
}

#[test]
fn a_connection_stopped_by_policy_does_not_return_by_the_other_direction() {
    just_started(|w| {
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, SYN | ACK, 1, 2, b""));
        // B may still open connections to A; that does not make this one B's.
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
        for _ in 0..2 {
            w.dropped(
                &A,
                &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b"x"),
                "policy-denied-ingress",
            );
            w.dropped(
                &B,
                &B.to(A.v4()).tcp(80, 1000, ACK, 2, 2, b"y"),
                "policy-denied-ingress",
            );
        }
    });
}

#[test]
fn a_segment_that_policy_allows_in_neither_direction_is_reset() {
    just_started(|w| {
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
        w.answered(&A, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b"x"), "tcp-reset");
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn adoption_ends() {
    just_started(|w| {
        w.now = Millis(1_300_000);
        w.answered(&A, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b"x"), "tcp-reset");
    });
}

#[test]
fn an_ack_does_not_open_the_way_for_a_syn() {
    just_started(|w| {
        // Only A may call B. B sends an ACK, which passes as an answer, and then tries to call A.
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, ACK, 2, 2, b"y"));
        w.dropped(&B, &B.to(A.v4()).tcp(80, 1000, SYN, 9, 0, b""), "policy-denied-ingress");
        // A's own SYN on the adopted connection is a new one, too.
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 9, 0, b""));
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn a_reset_is_not_adopted() {
    just_started(|w| {
        w.dropped(
            &A,
            &A.to(B.v4()).tcp(1000, 80, TcpFlags::RST, 2, 0, b""),
            "tcp-without-flow",
        );
    });
}
