//! TCP segments that belong to no connection, and SYNs with the tuple of an old one.

use heddle_flow::FlowState;
use heddle_tables::Direction;
use heddle_wire::testing::ip;
use heddle_wire::{TcpFlags, tcp};

use crate::forwarding::addresses;
use crate::services::serve;
use crate::tables::{A, B, C, HOST, isolate};
use crate::world::{Options, World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const FIN: TcpFlags = TcpFlags::FIN;

#[test]
fn a_segment_of_no_connection_is_answered_by_a_reset() {
    worlds(|w| {
        for b in addresses(&B) {
            let (out, p) = w.answered(&A, &A.to(b).tcp(1000, 80, ACK, 5, 77, b"data"), "tcp-reset");
            assert_eq!((p.src, p.dst, p.sport, p.dport), (b, A.ip(b), 80, 1000));
            assert_eq!((p.tcp_flags, tcp::sequence(&out, &p)), (RST, Some(77)));
            w.answered(&A, &A.to(b).tcp(1000, 80, SYN | ACK, 5, 77, b""), "tcp-reset");
            w.answered(&A, &A.to(b).tcp(1000, 80, FIN | ACK, 5, 77, b""), "tcp-reset");
            w.dropped(&A, &A.to(b).tcp(1000, 80, RST, 5, 0, b""), "tcp-without-flow");
        }
        w.answered(&HOST, &HOST.to(B.v4()).tcp(1000, 80, ACK, 5, 77, b"data"), "tcp-reset");
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn impossible_flags_are_dropped() {
    worlds(|w| {
        for flags in [
            TcpFlags::NONE,
            FIN,
            SYN | FIN,
            SYN | RST,
            FIN | TcpFlags::PSH | TcpFlags::URG,
        ] {
            w.dropped(&A, &A.to(B.v4()).tcp(1000, 80, flags, 1, 0, b""), "tcp-flags");
        }
    });
}

#[test]
fn a_syn_from_the_other_side_is_a_new_connection_and_judged_as_one() {
    worlds(|w| {
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, SYN | ACK, 1, 2, b""));
        // B may answer A, but not call it.
        w.dropped(&B, &B.to(A.v4()).tcp(80, 1000, SYN, 9, 0, b""), "policy-denied-ingress");
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b"still here"));
        // Where it may, the connection is its own.
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[(&B, 1000)])));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, SYN, 9, 0, b""));
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        w.dropped(
            &A,
            &A.to(B.v4()).tcp(1000, 80, SYN | ACK, 1, 10, b""),
            "policy-denied-ingress",
        );
        w.dropped(
            &B,
            &B.to(A.v4()).tcp(80, 1000, ACK, 10, 2, b""),
            "policy-denied-ingress",
        );
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn a_repeated_syn_belongs_to_its_connection() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
        let before = w.slow();
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
        assert_eq!(w.slow(), before);
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn a_syn_on_a_closed_connection_opens_a_new_one() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, RST | ACK, 0, 2, b""));
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 100, 0, b""));
        assert_eq!(w.connections(), 1);
        assert_eq!(w.states(), [FlowState::SynSent]);
        // Policy is asked again.
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, RST | ACK, 0, 101, b""));
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
        w.dropped(
            &A,
            &A.to(B.v4()).tcp(1000, 80, SYN, 200, 0, b""),
            "policy-denied-ingress",
        );
    });
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_live_ones() {
    let mut w = World::new(Options {
        flows: 2,
        ..Options::default()
    });
    for sport in [1000, 1001] {
        w.pass(&A, &B, &A.to(B.v4()).tcp(sport, 80, SYN, 1, 0, b""));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, sport, SYN | ACK, 1, 2, b""));
        w.pass(&A, &B, &A.to(B.v4()).tcp(sport, 80, ACK, 2, 2, b""));
    }
    let third = A.to(B.v4()).tcp(1002, 80, SYN, 1, 0, b"");
    w.dropped(&A, &third, "flow-table-full");
    // Again, without a search.
    w.dropped(&A, &third, "flow-table-full");
    w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, SYN | ACK, 1, 2, b""));
    // Expired connections make room.
    w.now = w.now.plus(500_000_000);
    w.pass(&A, &B, &A.to(B.v4()).tcp(1002, 80, SYN, 1, 0, b""));
}

#[test]
fn a_pod_cannot_use_up_the_table() {
    let mut w = World::new(Options {
        quota: Some(2),
        ..Options::default()
    });
    for sport in [1000, 1001] {
        w.pass(&A, &B, &A.to(B.v4()).udp(sport, 53, b"x"));
    }
    w.dropped(&A, &A.to(B.v4()).udp(1002, 53, b"x"), "flow-quota");
    w.pass(&B, &A, &B.to(A.v4()).udp(2000, 53, b"x"));
    w.pass(&HOST, &B, &HOST.to(B.v4()).udp(2000, 53, b"x"));
}

#[test]
fn packets_of_one_burst_make_one_connection() {
    worlds(|w| {
        for payload in [&b"1"[..], b"2", b"3"] {
            w.push(&A, &A.to(B.v4()).udp(1000, 53, payload));
        }
        w.step();
        for payload in [b"1", b"2", b"3"] {
            assert!(w.pop(&B).ends_with(payload), "order is kept");
        }
        w.changed(&["a rx 3", "a forwarded 3", "b tx 3"]);
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn a_syn_and_what_follows_it_in_one_burst_go_the_same_new_way() {
    worlds(|w| {
        serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, SYN, 1, 0, b""));
        w.pass(&B, &A, &B.to(A.v4()).tcp(8080, 1000, RST | ACK, 0, 2, b""));
        serve(w, &[&C]);
        w.push(&A, &A.to(vip).tcp(1000, 80, SYN, 100, 0, b""));
        w.push(&A, &A.to(vip).tcp(1000, 80, ACK, 101, 7, b"data"));
        w.step();
        w.pop(&C);
        w.pop(&C);
        w.changed(&["a rx 2", "a forwarded 2", "c tx 2"]);
    });
}

#[test]
fn a_full_table_gives_up_connections_without_an_answer() {
    let mut w = World::new(Options {
        flows: 3,
        ..Options::default()
    });
    w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
    w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, SYN | ACK, 1, 2, b""));
    w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b""));
    for sport in 2000..2100 {
        w.pass(&A, &B, &A.to(B.v4()).tcp(sport, 80, SYN, 1, 0, b""));
    }
    w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, ACK, 2, 2, b"data"));
    assert_eq!(w.connections(), 3);
}

#[test]
fn a_forged_reset_does_not_end_a_connection_that_goes_on() {
    let mut w = World::new(Options::default());
    w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
    w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, SYN | ACK, 1, 2, b""));
    w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 2, b""));
    w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, TcpFlags::RST, 0xdead_beef, 0, b""));
    w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, ACK, 2, 2, b"data"));
    w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, ACK, 2, 6, b""));
    // Longer than a closed entry stays.
    w.now = w.now.plus(3_600_000);
    w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, ACK, 6, 2, b"more"));
}
