//! Fragments that are dropped: overlapping or malformed ones, those whose first fragment was refused, those without a flow.

use heddle_tables::{Direction, EndpointPolicy};
use heddle_wire::testing::ip;
use heddle_wire::{Proto, TcpFlags};

use crate::datagram::{SERVICE, arrived, cut, push, udp};
use crate::forwarding::addresses;
use crate::large::pattern;
use crate::services::serve;
use crate::tables::{A, B, C, isolate};
use crate::world::worlds;

#[test]
fn fragments_that_overlap_end_their_datagram() {
    worlds(|w| {
        for b in addresses(&B) {
            let base = A.to(b);
            let fragments = udp(&A, b, (1000, 53), 1, 1000, &pattern(3900));
            let other = base
                .clone()
                .identification(1)
                .fragment(1800, true)
                .raw(Proto::UDP, &[1; 800]);
            // After the first and a later one were forwarded: no more are.
            push(w, &A, &fragments, &[0, 2], true);
            w.pop(&B);
            w.pop(&B);
            w.push(&A, &other);
            push(w, &A, &fragments, &[1, 3, 0], false);
            w.changed(&["a rx 6", "a forwarded 2", "a dropped fragment-overlap 4", "b tx 2"]);
            // While fragments are held: all of them are dropped.
            let renamed = udp(&A, b, (1000, 53), 2, 1000, &pattern(3900));
            push(w, &A, &renamed, &[2, 3], true);
            w.push(
                &A,
                &base
                    .clone()
                    .identification(2)
                    .fragment(1800, true)
                    .raw(Proto::UDP, &[1; 800]),
            );
            push(w, &A, &renamed, &[0, 1], true);
            w.changed(&["a rx 5", "a dropped fragment-overlap 5"]);
            // A first fragment over what is held, and another first fragment.
            let longer = udp(&A, b, (1000, 53), 3, 2000, &pattern(3900));
            w.push(
                &A,
                &base
                    .clone()
                    .identification(3)
                    .fragment(1000, true)
                    .raw(Proto::UDP, &[1; 800]),
            );
            push(w, &A, &longer, &[0, 1], true);
            w.changed(&["a rx 3", "a dropped fragment-overlap 3"]);
            push(w, &A, &udp(&A, b, (1000, 53), 4, 1000, &pattern(3900)), &[0], true);
            w.pop(&B);
            let another = udp(&A, b, (1001, 53), 4, 1000, &pattern(3900));
            push(w, &A, &another, &[0, 1, 2, 3], true);
            w.changed(&["a rx 5", "a forwarded 1", "a dropped fragment-overlap 4", "b tx 1"]);
            // Other datagrams are not affected, and the identification can be used again after a while.
            push(
                w,
                &A,
                &udp(&A, b, (1000, 53), 5, 1000, &pattern(3900)),
                &[0, 1, 2, 3],
                true,
            );
            arrived(w, &A, &B, 4);
            w.now = w.now.plus(30_000);
            push(w, &A, &fragments, &[0, 1, 2, 3], true);
            arrived(w, &A, &B, 4);
        }
    });
}

#[test]
fn fragments_that_no_datagram_has_are_dropped() {
    worlds(|w| {
        for b in addresses(&B) {
            let fragment = |offset, more, proto, data: &[u8]| A.to(b).fragment(offset, more).raw(proto, data);
            // RFC 1858: no ports, no TCP flags, no whole TCP header in the first; one that overlays the flags.
            let tcp = A.to(b).tcp_options(&[1; 8]).tcp(1, 2, TcpFlags::SYN, 1, 0, b"");
            let tcp = &tcp[tcp.len() - 28..];
            for (proto, first) in [
                (Proto::TCP, &tcp[..8]),
                (Proto::TCP, &tcp[..16]),
                (Proto::TCP, &tcp[..24]),
                (Proto::SCTP, &[0; 8]),
            ] {
                w.dropped(&A, &fragment(0, true, proto, first), "fragment-tiny");
            }
            for offset in [8, 16] {
                w.dropped(&A, &fragment(offset, false, Proto::TCP, &[0; 16]), "fragment-tiny");
            }
            // A fragment beyond 65,535 octets, an empty one, one whose length is no multiple of eight.
            w.dropped(&A, &fragment(65_528, false, Proto::UDP, &[0; 8]), "fragment-overflow");
            w.dropped(&A, &fragment(8, false, Proto::UDP, &[]), "fragment-length");
            w.dropped(&A, &fragment(8, true, Proto::UDP, &[0; 9]), "fragment-length");
        }
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn later_fragments_of_a_refused_first_are_dropped() {
    worlds(|w| {
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 80)])));
        for b in addresses(&B) {
            let denied = udp(&A, b, (1000, 53), 1, 1000, &pattern(3900));
            push(w, &A, &denied, &[0, 1, 2], true);
            w.changed(&[
                "a rx 3",
                "a dropped policy-denied-ingress 1",
                "a dropped fragment-first-refused 2",
            ]);
            push(
                w,
                &A,
                &udp(&A, b, (1000, 53), 2, 1000, &pattern(3900)),
                &[3, 1, 0, 2],
                true,
            );
            w.changed(&[
                "a rx 4",
                "a dropped policy-denied-ingress 1",
                "a dropped fragment-first-refused 3",
            ]);
            // An allowed first fragment does not help another datagram, whose first was denied.
            let allowed = cut(&A.to(b), 3, 1000, |p| {
                p.tcp(1000, 80, TcpFlags::SYN, 1, 0, &pattern(1900))
            });
            push(w, &A, &allowed, &[0], true);
            w.pop(&B);
            push(w, &A, &denied, &[3], true);
            w.changed(&[
                "a rx 2",
                "a forwarded 1",
                "a dropped fragment-first-refused 1",
                "b tx 1",
            ]);
            push(w, &A, &allowed, &[1], true);
            w.pop(&B);
            w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
        }
        // A Service without endpoints: only the first is answered.
        serve(w, &[]);
        for vip in SERVICE.map(ip) {
            push(
                w,
                &A,
                &udp(&A, vip, (1000, 80), 7, 1000, &pattern(2900)),
                &[1, 0, 2],
                true,
            );
            w.pop(&A);
            w.changed(&[
                "a rx 3",
                "a answered reject-unreachable 1",
                "a tx 1",
                "a dropped fragment-first-refused 2",
            ]);
        }
        // A protocol that heddle does not forward.
        let igmp = cut(&A.to(C.v4()), 8, 1000, |p| p.raw(Proto(2), &pattern(1900)));
        push(w, &A, &igmp, &[0, 1], true);
        w.changed(&[
            "a rx 2",
            "a dropped unsupported-protocol 1",
            "a dropped fragment-first-refused 1",
        ]);
    });
}

#[test]
fn a_policy_that_changes_in_the_middle_holds_for_the_rest() {
    worlds(|w| {
        for b in addresses(&B) {
            let fragments = udp(&A, b, (1000, 53), 1, 1000, &pattern(3900));
            push(w, &A, &fragments, &[0, 1], true);
            w.pop(&B);
            w.pop(&B);
            w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
            w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
            w.dropped(&A, &fragments[2], "policy-denied-ingress");
            w.set_policy(&B, Some(EndpointPolicy::open().into()));
            push(w, &A, &fragments, &[2, 3], true);
            w.pop(&B);
            w.pop(&B);
            w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
            // A fragment that is held when the policy changes is judged by the new one.
            push(w, &A, &udp(&A, b, (1000, 53), 2, 1000, &pattern(1900)), &[1], true);
            w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
            push(w, &A, &udp(&A, b, (1000, 53), 2, 1000, &pattern(1900)), &[0], true);
            w.changed(&[
                "a rx 2",
                "a dropped policy-denied-ingress 1",
                "a dropped fragment-first-refused 1",
            ]);
            w.set_policy(&B, Some(EndpointPolicy::open().into()));
        }
    });
}

#[test]
fn later_fragments_open_nothing() {
    worlds(|w| {
        for b in addresses(&B) {
            let fragments = udp(&A, b, (1000, 53), 1, 1000, &pattern(2900));
            push(w, &A, &fragments, &[0], true);
            w.pop(&B);
            w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
            let mut slots = Vec::new();
            w.node.flows().for_each(|c| slots.push(c.slot));
            slots.into_iter().for_each(|slot| assert!(w.node.flows().remove(slot)));
            w.dropped(&A, &fragments[1], "fragment-without-flow");
            assert_eq!(w.connections(), 0);
            // A spoofed fragment is not held.
            let spoofed = udp(&B, A.ip(b), (1000, 53), 1, 1000, &pattern(2900));
            let mut spoofed = spoofed[1].clone();
            spoofed[6..12].copy_from_slice(&A.mac.0);
            w.dropped(&A, &spoofed, "spoofed-source");
            let last_hop = cut(&A.to(b).ttl(1), 9, 1000, |p| p.udp(1000, 53, &pattern(1900)));
            push(w, &A, &udp(&A, b, (1000, 53), 9, 1000, &pattern(1900)), &[0], true);
            w.pop(&B);
            w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
            w.dropped(&A, &last_hop[1], "ttl-exceeded");
        }
    });
}

#[test]
fn sctp_ports_in_fragments_cannot_be_translated() {
    worlds(|w| {
        serve(w, &[&B]);
        for vip in SERVICE.map(ip) {
            let fragments = cut(&A.to(vip), 1, 1000, |p| p.sctp(1000, 80, 7, &pattern(1900)));
            push(w, &A, &fragments, &[0, 1], true);
            w.changed(&[
                "a rx 2",
                "a dropped untranslatable 1",
                "a dropped fragment-first-refused 1",
            ]);
        }
    });
}
