//! Later fragments follow the first of their datagram, whenever it comes.

use heddle_engine::{FragmentConfig, StageConfig};
use heddle_tables::{Direction, EndpointPolicy};
use heddle_wire::testing::ip;
use heddle_wire::{Ip, Parsed, Proto, TcpFlags, parse};

use crate::datagram::{cut, joined, udp};
use crate::forwarding::addresses;
use crate::large::pattern;
use crate::services::serve;
use crate::tables::{A, B, C, HOST, Party, isolate};
use crate::world::{Options, World, worlds};

const SERVICE: [&str; 2] = ["10.96.0.10", "fd96::10"];

/// Every order of four fragments.
fn orders() -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for n in 0..4 {
        let grown = orders.iter().flat_map(|order: &Vec<usize>| {
            (0..=n).map(move |at| {
                let mut order = order.clone();
                order.insert(at, n);
                order
            })
        });
        orders = grown.collect();
    }
    orders
}

/// Pushes fragments in that order, at once or one a turn.
fn push(w: &mut World, from: &Party, fragments: &[Vec<u8>], order: &[usize], at_once: bool) {
    for n in order {
        w.push(from, &fragments[*n]);
        if !at_once {
            w.step();
        }
    }
    w.step();
}

/// The datagram that reached a party in so many fragments, each of which is counted.
#[track_caller]
fn arrived(w: &mut World, from: &Party, to: &Party, count: usize) -> (Vec<u8>, Parsed) {
    let fragments: Vec<Vec<u8>> = (0..count).map(|_| w.pop(to)).collect();
    w.changed(&[
        &format!("{} rx {count}", from.name),
        &format!("{} forwarded {count}", from.name),
        &format!("{} tx {count}", to.name),
    ]);
    let whole = joined(&fragments);
    let parsed = parse(&whole, whole.len()).unwrap();
    (whole, parsed)
}

fn tuple(p: &Parsed) -> (Ip, Ip, u16, u16) {
    (p.src, p.dst, p.sport, p.dport)
}

#[test]
fn a_datagram_arrives_whole_in_whatever_order_its_fragments_come() {
    worlds(|w| {
        serve(w, &[&B]);
        let payload = pattern(3900);
        let mut id = 0;
        for order in orders() {
            for at_once in [true, false] {
                for (b, vip) in addresses(&B).into_iter().zip(SERVICE.map(ip)) {
                    id += 1;
                    let a = A.ip(b);
                    push(w, &A, &udp(&A, b, (1000, 53), id, 1000, &payload), &order, at_once);
                    let (whole, p) = arrived(w, &A, &B, 4);
                    assert!(whole.ends_with(&payload), "{order:?}");
                    assert_eq!((tuple(&p), p.ttl), ((a, b, 1000, 53), 63));
                    // Through a Service, and what answers.
                    push(w, &A, &udp(&A, vip, (1000, 80), id, 1000, &payload), &order, at_once);
                    let (whole, p) = arrived(w, &A, &B, 4);
                    assert!(whole.ends_with(&payload));
                    assert_eq!(tuple(&p), (a, b, 1000, 8080));
                    push(w, &B, &udp(&B, a, (8080, 1000), id, 1000, &payload), &order, at_once);
                    let (whole, p) = arrived(w, &B, &A, 4);
                    assert!(whole.ends_with(&payload));
                    assert_eq!(tuple(&p), (vip, a, 80, 1000));
                }
            }
        }
    });
}

#[test]
fn every_protocol_from_and_to_everyone() {
    worlds(|w| {
        serve(w, &[&A]);
        let data = pattern(2000);
        for (from, to) in [(&A, &B), (&A, &HOST), (&HOST, &A)] {
            for (n, dst) in (1..).zip(addresses(to)) {
                let base = from.to(dst);
                let src = from.ip(dst);
                push(
                    w,
                    from,
                    &cut(&base, n, 800, |p| p.echo_request(7, 1, &data)),
                    &[2, 0, 1],
                    true,
                );
                let (whole, p) = arrived(w, from, to, 3);
                assert!(whole.ends_with(&data) && p.sport == 7);
                let back = to.to(src);
                push(
                    w,
                    to,
                    &cut(&back, n, 800, |p| p.echo_reply(7, 1, &data)),
                    &[0, 2, 1],
                    true,
                );
                arrived(w, to, from, 3);
                let syn = |p: &heddle_wire::testing::Packet| p.tcp(1000, 81, TcpFlags::SYN, 1, 0, &data);
                push(w, from, &cut(&base, n, 800, syn), &[1, 2, 0], false);
                arrived(w, from, to, 3);
                push(
                    w,
                    from,
                    &cut(&base, n, 800, |p| p.sctp(1000, 81, 7, &data)),
                    &[2, 1, 0],
                    true,
                );
                arrived(w, from, to, 3);
            }
        }
        // A Service from the host, masqueraded, and a pod that reaches itself.
        for vip in SERVICE.map(ip) {
            push(w, &HOST, &udp(&HOST, vip, (1000, 80), 9, 800, &data), &[2, 0, 1], true);
            arrived(w, &HOST, &A, 3);
            push(w, &A, &udp(&A, vip, (1000, 80), 9, 800, &data), &[1, 0, 2], true);
            arrived(w, &A, &A, 3);
        }
    });
}

#[test]
fn the_largest_datagram_takes_two_chains_of_frames() {
    worlds(|w| {
        for b in addresses(&B) {
            let payload = pattern(65_535 - if b.is_v4() { 28 } else { 8 });
            for (id, order) in [(1, [0, 1]), (2, [1, 0])] {
                push(w, &A, &udp(&A, b, (1000, 53), id, 60_000, &payload), &order, false);
                let (whole, _) = arrived_unchecked(w, &A, &B, 2);
                assert!(whole.ends_with(&payload));
            }
        }
    });
}

/// As `arrived`; etherparse does not take a packet of more than 65,535 octets, as IPv6 reassembles them.
#[track_caller]
fn arrived_unchecked(w: &mut World, from: &Party, to: &Party, count: usize) -> (Vec<u8>, ()) {
    let mut fragments: Vec<Vec<u8>> = (0..count).map(|_| w.pop(to)).collect();
    w.changed(&[
        &format!("{} rx {count}", from.name),
        &format!("{} forwarded {count}", from.name),
        &format!("{} tx {count}", to.name),
    ]);
    let at = |f: &Vec<u8>| {
        if f[12] == 8 {
            usize::from(u16::from_be_bytes([f[20] & 0x1f, f[21]]))
        } else {
            usize::from(u16::from_be_bytes([f[56], f[57]]) >> 3)
        }
    };
    fragments.sort_by_key(at);
    let data = fragments
        .iter()
        .flat_map(|f| f[if f[12] == 8 { 34 } else { 62 }..].to_vec());
    (data.collect(), ())
}

#[test]
fn without_its_first_a_datagram_is_held_for_a_second() {
    worlds(|w| {
        for b in addresses(&B) {
            let fragments = udp(&A, b, (1000, 53), 1, 1000, &pattern(3900));
            push(w, &A, &fragments, &[1, 3, 2], true);
            w.changed(&["a rx 3"]);
            assert_eq!(w.node.shared().store().outstanding(), 3, "held, and accounted for");
            w.now = w.now.plus(999);
            w.step();
            w.changed(&[]);
            w.now = w.now.plus(1);
            w.step();
            w.changed(&["a dropped fragment-first-missing 3"]);
            assert_eq!(w.node.shared().store().outstanding(), 0);
            // Its first still goes, and one that was lost may come again.
            push(w, &A, &fragments, &[0, 2], false);
            w.pop(&B);
            w.pop(&B);
            w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
        }
    });
}

#[test]
fn a_known_datagram_is_forgotten_after_a_while() {
    worlds(|w| {
        let fragments = udp(&A, B.v4(), (1000, 53), 1, 1000, &pattern(2900));
        for (after, passes) in [(29_999, true), (30_000, false)] {
            w.now = w.now.plus(60_000);
            push(w, &A, &fragments, &[0], true);
            w.pop(&B);
            w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
            w.now = w.now.plus(after);
            push(w, &A, &fragments, &[1], true);
            if passes {
                w.pop(&B);
                w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
            } else {
                w.changed(&["a rx 1"]);
                w.now = w.now.plus(1000);
                w.step();
                w.changed(&["a dropped fragment-first-missing 1"]);
            }
        }
    });
}

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
            // The first has gone, and one later: nothing more goes.
            push(w, &A, &fragments, &[0, 2], true);
            w.pop(&B);
            w.pop(&B);
            w.push(&A, &other);
            push(w, &A, &fragments, &[1, 3, 0], false);
            w.changed(&["a rx 6", "a forwarded 2", "a dropped fragment-overlap 4", "b tx 2"]);
            // Held ones: all of them are dropped.
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
            // It is one datagram's end; others go on, and this one's name is free again after a while.
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
fn an_exact_duplicate_goes_the_way_of_the_first_copy() {
    worlds(|w| {
        for b in addresses(&B) {
            let fragments = udp(&A, b, (1000, 53), 1, 1000, &pattern(3900));
            push(w, &A, &fragments, &[0, 0, 1, 1], true);
            (0..4).for_each(|_| drop(w.pop(&B)));
            w.changed(&["a rx 4", "a forwarded 4", "b tx 4"]);
            push(w, &A, &fragments, &[2, 3], true);
            (0..2).for_each(|_| drop(w.pop(&B)));
            w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
            // Where the first copy is held still, one is enough.
            push(w, &A, &fragments, &[2, 2, 1, 2], true);
            w.changed(&["a rx 4", "a dropped fragment-duplicate 2"]);
            push(w, &A, &fragments, &[0, 3], true);
            let whole: Vec<Vec<u8>> = (0..4).map(|_| w.pop(&B)).collect();
            joined(&whole);
            w.changed(&["a rx 2", "a forwarded 4", "b tx 4"]);
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
            // The ping of death, an empty one, one that is no multiple of eight.
            w.dropped(&A, &fragment(65_528, false, Proto::UDP, &[0; 8]), "fragment-overflow");
            w.dropped(&A, &fragment(8, false, Proto::UDP, &[]), "fragment-length");
            w.dropped(&A, &fragment(8, true, Proto::UDP, &[0; 9]), "fragment-length");
        }
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn what_the_first_may_not_the_later_ones_may_not() {
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
            // A first that is allowed makes no way for the datagram of another one that is not.
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
        // A Service without endpoints: the first is answered, and nothing else.
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
        // A protocol that heddle does not carry.
        let gre = cut(&A.to(C.v4()), 8, 1000, |p| p.raw(Proto(47), &pattern(1900)));
        push(w, &A, &gre, &[0, 1], true);
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
            // What is held when the policy changes is judged by the new one.
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
            // Of whom they are not, they are not held for either.
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
fn an_identification_may_come_back() {
    worlds(|w| {
        for b in addresses(&B) {
            let one = |sport| udp(&A, b, (sport, 53), 1, 1000, &pattern(2900));
            // At once, where all of the datagram was seen.
            for sport in [1000, 1001, 1002] {
                push(w, &A, &one(sport), &[0, 1, 2], true);
                assert_eq!(arrived(w, &A, &B, 3).1.sport, sport);
            }
            // After a second without a fragment, where some were lost.
            push(w, &A, &one(1003), &[0, 1], true);
            w.pop(&B);
            w.pop(&B);
            w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
            w.now = w.now.plus(1000);
            push(w, &A, &one(1004), &[0, 1, 2], true);
            assert_eq!(arrived(w, &A, &B, 3).1.sport, 1004);
        }
    });
}

/// A world with little room.
fn narrow(workers: u8) -> World {
    World::new(Options {
        workers,
        stages: StageConfig {
            fragments: FragmentConfig {
                datagrams: 64,
                held_frames: 32,
                ..FragmentConfig::default()
            },
            ..StageConfig::default()
        },
        ..Options::default()
    })
}

#[test]
fn who_floods_takes_no_room_from_others() {
    for workers in 1..=3 {
        let mut w = narrow(workers);
        let payload = pattern(2900);
        for b in addresses(&B) {
            let honest = udp(&A, b, (1000, 53), 1, 1000, &payload);
            push(&mut w, &A, &honest, &[1, 2], true);
            w.changed(&["a rx 2"]);
            // Each is of another datagram, whose first never comes.
            for id in 0..500 {
                w.push(&C, &udp(&C, b, (1000, 53), id, 1000, &payload)[1]);
            }
            w.step();
            w.changed(&["c rx 500", "c dropped fragment-no-room 492"]);
            assert_eq!(w.node.shared().store().outstanding(), 2 + 8, "a quarter of the frames");
            // Their firsts alone take no more than a quarter of the datagrams.
            for id in 1000..1500 {
                w.push(&C, &udp(&C, b, (1000, 53), id, 1000, &payload)[0]);
            }
            w.step();
            (0..500).for_each(|_| drop(w.pop(&B)));
            let changes = w.changes();
            assert!(changes.contains(&"c forwarded 500".to_owned()), "{changes:?}");
            push(&mut w, &A, &honest, &[0], true);
            let whole: Vec<Vec<u8>> = (0..3).map(|_| w.pop(&B)).collect();
            joined(&whole);
            w.changed(&["a rx 1", "a forwarded 3", "b tx 3"]);
            w.now = w.now.plus(1000);
            w.step();
            w.changes();
            assert_eq!(w.node.shared().store().outstanding(), 0);
        }
    }
}

#[test]
fn one_datagram_takes_no_more_than_a_share_and_only_so_many_fragments() {
    let mut w = narrow(1);
    let fragments = udp(&A, B.v4(), (1000, 53), 1, 8, &pattern(2000));
    push(&mut w, &A, &fragments, &(1..=10).collect::<Vec<_>>(), true);
    w.changed(&["a rx 10", "a dropped fragment-no-room 2"]);
    push(&mut w, &A, &fragments, &[0], true);
    (0..9).for_each(|_| drop(w.pop(&B)));
    w.changed(&["a rx 1", "a forwarded 9", "b tx 9"]);
    push(&mut w, &A, &fragments, &(11..=140).collect::<Vec<_>>(), true);
    // 128 at most: the two that found no room were dropped before the first came, and do not count.
    (0..119).for_each(|_| drop(w.pop(&B)));
    w.changed(&[
        "a rx 130",
        "a forwarded 119",
        "a dropped fragment-too-many 11",
        "b tx 119",
    ]);
}

#[test]
fn who_has_most_makes_room_for_others() {
    let mut w = World::new(Options {
        stages: StageConfig {
            fragments: FragmentConfig {
                held_frames: 40,
                ..FragmentConfig::default()
            },
            ..StageConfig::default()
        },
        ..Options::default()
    });
    let payload = pattern(1900);
    let later = |w: &mut World, from: &Party, dst: Ip, count: u32| {
        for id in 0..count {
            w.push(from, &udp(from, dst, (1000, 53), id, 1000, &payload)[1]);
        }
        w.step();
    };
    later(&mut w, &A, B.v4(), 10);
    later(&mut w, &B, A.v4(), 9);
    later(&mut w, &C, A.v4(), 10);
    later(&mut w, &HOST, A.v4(), 10);
    w.changed(&["a rx 10", "b rx 9", "c rx 10", "host rx 10"]);
    // The 40th is B's; now all is used up, and nobody has more than a quarter.
    w.push(&B, &udp(&B, A.v4(), (1000, 53), 100, 1000, &payload)[1]);
    w.step();
    w.changed(&["b rx 1"]);
    w.push(&B, &udp(&B, A.v4(), (1000, 53), 101, 1000, &payload)[1]);
    w.step();
    w.changed(&["b rx 1", "b dropped fragment-no-room 1"]);
    assert_eq!(w.node.shared().store().outstanding(), 40);
}

#[test]
fn what_is_held_ends_with_its_port() {
    worlds(|w| {
        let fragments = udp(&A, B.v4(), (1000, 53), 1, 1000, &pattern(2900));
        push(w, &A, &fragments, &[1, 2], true);
        let owner = usize::from(crate::tables::worker_of(&A, w.options.workers).0);
        let removed = w.node.handles()[owner].remove_port(A.port).unwrap();
        w.turn(owner);
        let port = removed.recv().unwrap().unwrap();
        let mut pool = heddle_port::WorkerPool::new(heddle_port::WorkerId(98), w.node.shared().clone());
        port.close(&mut pool);
        drop(pool);
        w.changed(&["a rx 2", "a dropped port-closed 2"]);
        assert_eq!(w.node.shared().store().outstanding(), 0);
    });
}

#[test]
fn fragments_that_are_too_large_for_their_way_are_cut_again() {
    worlds(|w| {
        serve(w, &[&HOST]);
        let payload = pattern(8900);
        let fragments = udp(&A, ip(SERVICE[0]), (1000, 80), 1, 3000, &payload);
        push(w, &A, &fragments, &[2, 0, 1], true);
        let made: Vec<Vec<u8>> = (0..8).map(|_| w.pop(&HOST)).collect();
        assert!(joined(&made).ends_with(&payload));
        w.changed(&["a rx 3", "a forwarded 3", "a fragments 5", "host tx 8"]);
        // IPv6's sender is told, and sends smaller ones (RFC 8201).
        push(
            w,
            &A,
            &udp(&A, ip(SERVICE[1]), (1000, 80), 1, 3000, &payload),
            &[0, 1],
            true,
        );
        w.pop(&A);
        w.changed(&[
            "a rx 2",
            "a answered too-big 1",
            "a tx 1",
            "a dropped fragment-first-refused 1",
        ]);
        push(
            w,
            &A,
            &udp(&A, ip(SERVICE[1]), (1000, 80), 2, 1400, &payload),
            &[0, 1, 2, 3, 4, 5, 6],
            true,
        );
        arrived(w, &A, &HOST, 7);
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
