//! Fragments of a valid datagram: later ones are handled as packets of the first one's flow, in any order of arrival.

use heddle_wire::TcpFlags;
use heddle_wire::testing::ip;

use crate::datagram::{SERVICE, arrived, cut, joined, push, tuple, udp};
use crate::forwarding::addresses;
use crate::large::pattern;
use crate::services::serve;
use crate::tables::{A, B, HOST, Party};
use crate::world::{World, worlds};

/// Returns every order of four fragments.
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
                    // Through a Service, and its answer.
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
        // The host through a Service, which is masqueraded, and a pod through a Service to itself.
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

/// As `arrived`, without etherparse, which accepts no packet above 65,535 octets, such as a reassembled IPv6 datagram.
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
            // A copy of a held fragment is dropped.
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
fn fragments_that_are_too_large_for_their_way_are_cut_again() {
    worlds(|w| {
        serve(w, &[&HOST]);
        let payload = pattern(8900);
        let fragments = udp(&A, ip(SERVICE[0]), (1000, 80), 1, 3000, &payload);
        push(w, &A, &fragments, &[2, 0, 1], true);
        let made: Vec<Vec<u8>> = (0..8).map(|_| w.pop(&HOST)).collect();
        assert!(joined(&made).ends_with(&payload));
        w.changed(&["a rx 3", "a forwarded 3", "a fragments 5", "host tx 8"]);
        // The sender of IPv6 gets an error and then sends smaller ones (RFC 8201).
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
