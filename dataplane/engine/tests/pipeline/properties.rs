//! Random packets in random order: nothing panics, no frame is lost, every packet ends once.

use heddle_wire::testing::{Packet, ip};
use heddle_wire::{Ip, MacAddr, Proto, TcpFlags};
use proptest::prelude::*;

use crate::services::serve;
use crate::tables::{A, B, C, HOST, Party};
use crate::world::{Options, World};

fn sender() -> impl Strategy<Value = Party> {
    prop_oneof![Just(A), Just(B), Just(C), Just(HOST)]
}

fn address() -> impl Strategy<Value = Ip> {
    let known = [
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.96.0.10",
        "192.0.2.1",
        "169.254.1.1",
        "169.254.2.2",
    ];
    prop_oneof![
        8 => prop::sample::select(known.map(ip).to_vec()),
        1 => any::<[u8; 4]>().prop_map(Ip::from_v4),
    ]
}

/// Few ports, so that packets often belong to one flow.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80), Just(8080), 1000..1003_u16, 61000..61004_u16]
}

#[derive(Clone, Debug)]
enum Step {
    Tcp(Party, Option<Ip>, Ip, u16, u16, u8, u8),
    Udp(Party, Option<Ip>, Ip, u16, u16, bool),
    Echo(Party, Ip, u16, bool),
    Error(Party, Ip, Ip, u16, u16),
    /// Identification, offset and length in units of 64 octets, whether more fragments follow, the port of a first fragment.
    Fragment(Party, Ip, u32, u16, u16, bool, u16),
    Raw(Party, Vec<u8>),
    Policy(Party, bool),
    Backends(Vec<Party>),
    Wait(u64),
    Room(Party, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let src = || prop_oneof![6 => Just(None), 1 => address().prop_map(Some)];
    let ttl = prop_oneof![5 => Just(64_u8), 1 => 0..3_u8];
    let flags = prop_oneof![4 => prop::sample::select(vec![2_u8, 18, 16, 24, 17, 4, 20]), 1 => any::<u8>()];
    prop_oneof![
        8 => (sender(), src(), address(), port(), port(), flags, ttl)
            .prop_map(|(p, s, d, a, b, f, t)| Step::Tcp(p, s, d, a, b, f, t)),
        4 => (sender(), src(), address(), port(), port(), any::<bool>())
            .prop_map(|(p, s, d, a, b, c)| Step::Udp(p, s, d, a, b, c)),
        2 => (sender(), address(), port(), any::<bool>()).prop_map(|(p, d, id, r)| Step::Echo(p, d, id, r)),
        2 => (sender(), address(), address(), port(), port()).prop_map(|(p, x, y, a, b)| Step::Error(p, x, y, a, b)),
        6 => (sender(), address(), 0..3_u32, 0..5_u16, 1..3_u16, any::<bool>(), port())
            .prop_map(|(p, d, id, at, n, more, port)| Step::Fragment(p, d, id, at, n, more, port)),
        1 => (sender(), prop::collection::vec(any::<u8>(), 0..120)).prop_map(|(p, b)| Step::Raw(p, b)),
        1 => (sender(), any::<bool>()).prop_map(|(p, open)| Step::Policy(p, open)),
        1 => prop::collection::vec(sender(), 0..3).prop_map(Step::Backends),
        1 => (0..200_000_u64).prop_map(Step::Wait),
        1 => (sender(), prop_oneof![Just(0_usize), Just(1), Just(usize::MAX)]).prop_map(|(p, n)| Step::Room(p, n)),
    ]
}

fn packet(from: &Party, src: Option<Ip>, dst: Ip, ttl: u8) -> Packet {
    Packet::new(from.mac, MacAddr::GATEWAY, src.unwrap_or(from.ip(dst)), dst).ttl(ttl)
}

fn play(w: &mut World, steps: &[Step], bursts: bool) {
    serve(w, &[&A, &B]);
    for step in steps {
        match step {
            Step::Tcp(p, s, d, a, b, f, t) => {
                w.push(p, &packet(p, *s, *d, *t).tcp(*a, *b, TcpFlags(*f), 1, 1, b"data"));
            }
            Step::Udp(p, s, d, a, b, partial) => {
                let packet = packet(p, *s, *d, 64);
                let packet = if *partial { packet.partial() } else { packet };
                w.push(p, &packet.udp(*a, *b, b"data"));
            }
            Step::Echo(p, d, id, reply) => {
                let packet = packet(p, None, *d, 64);
                w.push(
                    p,
                    &if *reply {
                        packet.echo_reply(*id, 1, b"x")
                    } else {
                        packet.echo_request(*id, 1, b"x")
                    },
                );
            }
            Step::Error(p, x, y, a, b) => {
                let quote = Packet::new(A.mac, MacAddr::GATEWAY, *x, *y).udp(*a, *b, b"data");
                w.push(p, &packet(p, None, *x, 64).icmp_error(3, 3, 0, &quote));
            }
            Step::Fragment(p, d, id, at, n, more, port) => {
                let mut data = vec![*n as u8; usize::from(*n) * 64];
                if *at == 0 {
                    data[..8].copy_from_slice(&[1000, *port, 400, 0].map(u16::to_be_bytes).concat());
                }
                let packet = packet(p, None, *d, 64).identification(*id);
                w.push(p, &packet.fragment(at * 64, *more || *at == 0).raw(Proto::UDP, &data));
            }
            Step::Raw(p, bytes) => w.push(p, bytes),
            Step::Policy(p, open) if p.endpoint.is_pod() => {
                let closed = crate::tables::isolate(heddle_tables::Direction::Ingress, &[(&A, 0)]);
                let policy = if *open {
                    heddle_tables::EndpointPolicy::open().into()
                } else {
                    closed
                };
                w.set_policy(p, Some(policy));
            }
            Step::Policy(..) => {}
            Step::Backends(list) => serve(w, &list.iter().collect::<Vec<_>>()),
            Step::Wait(ms) => w.now = w.now.plus(*ms),
            Step::Room(p, n) => w.wire(p).set_tx_room(*n),
        }
        // Sometimes a burst, sometimes a packet.
        if !bursts || !w.now.0.is_multiple_of(3) {
            w.step();
        }
    }
    w.step();
    w.discard_outputs();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// The end of the world asserts that nothing is missing. Etherparse verifies every output.
    #[test]
    fn nothing_is_lost_and_nothing_ends_twice(steps in prop::collection::vec(step(), 1..60), workers in 1..=3_u8) {
        let mut w = World::new(Options { workers, lane: 4, flows: 16, quota: Some(6), ..Options::default() });
        play(&mut w, &steps, true);
    }

    /// The owner of a port makes no difference to a packet's verdict.
    #[test]
    fn one_worker_and_three_agree(mut steps in prop::collection::vec(step(), 1..40)) {
        // A ring is one queue's, and the host has as many queues as there are workers.
        steps.retain(|s| !matches!(s, Step::Room(..)));
        let mut all = Vec::new();
        for workers in [1, 3] {
            let mut w = World::new(Options { workers, ..Options::default() });
            play(&mut w, &steps, false);
            all.push(w.changes());
        }
        prop_assert_eq!(&all[0], &all[1]);
    }
}
