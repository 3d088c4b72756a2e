//! Takeover of a flow table by the next agent: connections continue, are judged again, and keep their translation.

use std::path::Path;

use heddle_flow::{BootId, FlowTable, Millis};
use heddle_tables::{Balancing, Direction, NextHopId};
use heddle_wire::TcpFlags;
use heddle_wire::testing::ip;

use crate::affinity::{open, sticky};
use crate::nodes::{CLIENT, ROUTER, ROUTER_HOP, STRANGER};
use crate::nodes_addresses::{node_port, outside};
use crate::services::serve;
use crate::tables::{A, B, C, HOST, UPLINK, isolate};
use crate::world::{Options, World, config};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const VIP: &str = "10.96.0.10";

fn start(path: &Path, workers: u8) -> World {
    let options = Options {
        workers,
        ..Options::default()
    };
    let (flows, _) = FlowTable::open(path, &config(&options), BootId(1), Millis(1)).unwrap();
    World::over(options, flows)
}

/// Two starts on one table: `before` on the first, `after` on the second, with one worker more.
fn restarted(before: impl Fn(&mut World), after: impl Fn(&mut World)) {
    for workers in 1..=2 {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut w = start(file.path(), workers);
        serve(&mut w, &[&B]);
        before(&mut w);
        drop(w);
        after(&mut start(file.path(), workers + 1));
    }
}

fn open_connection(w: &mut World) {
    w.pass(&A, &B, &A.to(ip(VIP)).tcp(1000, 80, SYN, 1, 0, b""));
    w.pass(&B, &A, &B.to(A.v4()).tcp(8080, 1000, SYN | ACK, 1, 2, b""));
}

#[test]
fn a_client_with_affinity_stays_with_its_backend() {
    restarted(
        |w| {
            // Alone, so where the client goes is not where chance would lead later.
            sticky(w, &[&C], 60, Balancing::Maglev);
            assert_eq!(open(w, &HOST, VIP, 80, 1000..1001), [("c", 1)].into());
        },
        |w| {
            sticky(w, &[&A, &B, &C], 60, Balancing::Random);
            assert_eq!(open(w, &HOST, VIP, 80, 1001..1021), [("c", 20)].into());
        },
    );
}

#[test]
fn the_client_speaks_first() {
    restarted(open_connection, |w| {
        // Meanwhile the Service has another backend.
        serve(w, &[&C]);
        let (_, p) = w.pass(&A, &B, &A.to(ip(VIP)).tcp(1000, 80, ACK, 2, 2, b"x"));
        assert_eq!((p.dst, p.dport), (B.v4(), 8080));
        let (_, p) = w.pass(&B, &A, &B.to(A.v4()).tcp(8080, 1000, ACK, 2, 2, b"y"));
        assert_eq!((p.src, p.sport), (ip(VIP), 80));
    });
}

#[test]
fn the_server_speaks_first() {
    restarted(open_connection, |w| {
        serve(w, &[&C]);
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        let (_, p) = w.pass(&B, &A, &B.to(A.v4()).tcp(8080, 1000, ACK, 2, 2, b"y"));
        assert_eq!((p.src, p.sport), (ip(VIP), 80));
        // Once judged, it is a hit again, from both sides.
        let before = w.slow();
        w.pass(&B, &A, &B.to(A.v4()).tcp(8080, 1000, ACK, 2, 2, b"y"));
        w.pass(&A, &B, &A.to(ip(VIP)).tcp(1000, 80, ACK, 2, 2, b"x"));
        assert_eq!(w.slow(), before);
    });
}

#[test]
fn a_connection_that_policy_now_denies_ends() {
    restarted(open_connection, |w| {
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&C, 8080)])));
        w.dropped(
            &B,
            &B.to(A.v4()).tcp(8080, 1000, ACK, 2, 2, b"y"),
            "policy-denied-ingress",
        );
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn a_ping_goes_on() {
    restarted(
        |w| {
            w.pass(&A, &B, &A.to(B.v6()).echo_request(7, 1, b"x"));
        },
        |w| {
            w.pass(&B, &A, &B.to(A.v6()).echo_reply(7, 1, b"x"));
            w.pass(&A, &B, &A.to(B.v6()).echo_request(7, 2, b"x"));
            w.pass(&B, &A, &B.to(A.v6()).echo_reply(7, 2, b"x"));
        },
    );
}

/// The numbers of next hops are another agent's, so a client's next hop is learned again from its packets.
#[test]
fn answers_to_a_client_outside_go_to_its_own_neighbor_after_a_restart() {
    for client_first in [false, true] {
        restarted(
            |w| {
                node_port(w, &[A.v4()], true);
                w.pass(
                    &UPLINK,
                    &A,
                    &outside(ROUTER, HOST.v4()).tcp(1000, 30080, SYN, 1, 0, b""),
                );
            },
            |w| {
                node_port(w, &[A.v4()], true);
                // The number that the router had is another neighbor's now.
                let mut hop = *w.tables.current().next_hop(ROUTER_HOP).unwrap();
                w.tables.set_next_hop(NextHopId(2), Some(hop));
                w.tables.set_neighbor(ROUTER, Some(NextHopId(2)));
                hop.dst = STRANGER;
                w.tables.set_next_hop(ROUTER_HOP, Some(hop));
                w.publish();
                if client_first {
                    w.pass(
                        &UPLINK,
                        &A,
                        &outside(ROUTER, HOST.v4()).tcp(1000, 30080, SYN, 1, 0, b""),
                    );
                }
                let answer = A.to(ip(CLIENT)).tcp(8080, 1000, SYN | ACK, 1, 2, b"");
                if !client_first {
                    // The kernel's routes lead to the client in any case.
                    w.pass(&A, &HOST, &answer);
                    return;
                }
                w.push(&A, &answer);
                w.step();
                w.changed(&["a rx 1", "a forwarded 1", "uplink tx 1"]);
                assert_eq!(heddle_wire::ether::destination(&w.pop(&UPLINK)), Some(ROUTER));
            },
        );
    }
}
