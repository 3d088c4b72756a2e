//! Tests of the table alone: its lists, shares and frames agree after any steps, and every held packet is taken once.

use heddle_flow::{FlowKey, Millis, Origin};
use heddle_port::{Capabilities, PortId, SharedPool, WorkerId, WorkerPool};
use heddle_tables::EndpointId;
use heddle_wire::testing::{Packet as Build, ip, mac};
use heddle_wire::{Parsed, Proto, parse};
use proptest::prelude::*;

use super::{DatagramKey, Datagrams, FragmentConfig, Later, Part, Ticket};
use crate::ingress::{Ingress, PortRole};
use crate::reason::DropReason;

/// The port numbers: as many as with the most pods.
const PORTS: u16 = 1088;
const CONFIG: FragmentConfig = FragmentConfig {
    datagrams: 16,
    held_frames: 12,
    wait_ms: 100,
    remember_ms: 3000,
};

fn ingress(pod: u16) -> Ingress {
    Ingress::new(PortId(pod), PortRole::Pod(EndpointId(pod)), Capabilities::VETH)
}

fn fragment(id: u32, offset: u16, len: usize, more: bool) -> Parsed {
    let base = Build::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"));
    let frame = base
        .identification(id)
        .fragment(offset, more)
        .raw(Proto::UDP, &[0, 9, 0, 9, 0, 99, 0, 0].repeat(len / 8));
    parse(&frame, frame.len()).unwrap()
}

struct Table {
    shared: SharedPool,
    pool: WorkerPool,
    datagrams: Datagrams,
    now: Millis,
}

impl Table {
    fn new(config: FragmentConfig) -> Self {
        let shared = SharedPool::heap(256, 512);
        Self {
            pool: WorkerPool::new(WorkerId(0), shared.clone()),
            shared,
            datagrams: Datagrams::new(config, PORTS),
            now: Millis(1000),
        }
    }

    fn first(&mut self, pod: u16, p: &Parsed, passes: bool) -> Result<(), DropReason> {
        let origin = Origin::pod(EndpointId(pod));
        let (key, flow) = (DatagramKey::of(p, origin), FlowKey::of(p, origin));
        let ticket = self.datagrams.first(&key, flow, Part::of(p), ingress(pod), self.now)?;
        ticket
            .into_iter()
            .for_each(|ticket| self.datagrams.record_first(ticket, flow, passes));
        Ok(())
    }

    fn later(&mut self, pod: u16, p: &Parsed) -> Later {
        let key = DatagramKey::of(p, Origin::pod(EndpointId(pod)));
        self.datagrams.later(&key, Part::of(p), ingress(pod), self.now)
    }

    /// Holds a packet of `frames` frames.
    fn hold(&mut self, pod: u16, ticket: Ticket, frames: usize) -> Result<(), DropReason> {
        let packet = self.pool.packet(&vec![0; frames * 200]).unwrap();
        self.datagrams
            .hold(packet, ingress(pod), ticket)
            .map_err(|(packet, reason)| {
                self.pool.free_packet(packet);
                reason
            })
    }

    /// Takes the packets that are given up and those that are ready, and returns their numbers.
    fn free_finished(&mut self) -> (usize, usize) {
        let (mut given_up, mut ready) = (0, 0);
        while let Some((packet, _, _)) = self.datagrams.take_given_up() {
            self.pool.free_packet(packet);
            given_up += 1;
        }
        while let Some((packet, _)) = self.datagrams.take_ready() {
            self.pool.free_packet(packet);
            ready += 1;
        }
        (given_up, ready)
    }

    fn held(&self) -> u32 {
        self.shared.store().outstanding()
    }
}

#[test]
fn without_places_first_fragments_pass_and_later_ones_do_not() {
    let mut t = Table::new(FragmentConfig {
        datagrams: 0,
        held_frames: 0,
        ..CONFIG
    });
    assert_eq!(t.first(2, &fragment(1, 0, 64, true), true), Ok(()));
    assert_eq!(
        t.later(2, &fragment(1, 64, 8, false)),
        Later::Drop(DropReason::FragmentNoRoom)
    );
}

#[test]
fn held_packets_count_by_their_frames() {
    let mut t = Table::new(CONFIG);
    let Later::Wait(ticket) = t.later(2, &fragment(1, 64, 64, true)) else {
        panic!("it waits")
    };
    assert_eq!(
        t.hold(2, ticket, 4),
        Err(DropReason::FragmentNoRoom),
        "a quarter is three frames"
    );
    assert_eq!(t.hold(2, ticket, 3), Ok(()));
    let Later::Wait(second) = t.later(2, &fragment(2, 64, 64, true)) else {
        panic!("it waits")
    };
    assert_eq!(t.hold(2, second, 1), Ok(()), "in the place of the older one");
    assert_eq!((t.free_finished(), t.held()), ((1, 0), 1));
    assert_eq!(
        t.hold(2, ticket, 1),
        Err(DropReason::FragmentNoRoom),
        "that one is forgotten"
    );
    assert_eq!(t.first(2, &fragment(2, 0, 64, true), true), Ok(()));
    assert_eq!((t.free_finished(), t.held()), ((0, 1), 0));
}

#[test]
fn a_packet_whose_first_came_meanwhile_is_ready_at_once() {
    for passes in [true, false] {
        let mut t = Table::new(CONFIG);
        let Later::Wait(ticket) = t.later(2, &fragment(1, 64, 64, true)) else {
            panic!("it waits")
        };
        t.first(2, &fragment(1, 0, 64, true), passes).unwrap();
        assert_eq!(t.hold(2, ticket, 1), Ok(()));
        assert_eq!(t.free_finished(), (0, 1));
    }
}

#[test]
fn a_fragment_without_room_is_no_duplicate_when_it_comes_again() {
    let mut t = Table::new(CONFIG);
    for last in [false, true] {
        let p = fragment(1, 64, 64, !last);
        let Later::Wait(ticket) = t.later(2, &p) else {
            panic!("it waits")
        };
        assert_eq!(t.hold(2, ticket, 4), Err(DropReason::FragmentNoRoom));
    }
    let p = fragment(1, 64, 64, true);
    let Later::Wait(ticket) = t.later(2, &p) else {
        panic!("it waits again")
    };
    assert_eq!(t.hold(2, ticket, 1), Ok(()));
    assert_eq!(t.later(2, &p), Later::Drop(DropReason::FragmentDuplicate));
    assert_eq!(t.first(2, &fragment(1, 0, 64, true), true), Ok(()));
    assert_eq!((t.free_finished(), t.held()), ((0, 1), 0));
}

/// Asks for the next step of a later fragment in a datagram whose first fragment was forwarded, if the table has it still.
fn is_known(t: &mut Table, pod: u16, id: u32) -> bool {
    matches!(t.later(pod, &fragment(id, 64, 64, true)), Later::Follow(_))
}

#[test]
fn each_port_has_a_share_of_its_own() {
    // Endpoint numbers that are equal modulo 256 have shared one.
    let mut t = Table::new(CONFIG);
    for id in 0..4 {
        t.first(1, &fragment(id, 0, 64, true), true).unwrap();
    }
    for id in 0..40 {
        t.first(257, &fragment(id, 0, 64, true), true).unwrap();
        t.datagrams.check();
    }
    assert!((0..4).all(|id| is_known(&mut t, 1, id)), "the other one keeps its own");
    assert!((36..40).all(|id| is_known(&mut t, 257, id)) && t.datagrams.check() == 0);
}

#[test]
fn the_datagram_goes_that_was_silent_for_longest() {
    let mut t = Table::new(CONFIG);
    for id in 0..4 {
        t.now = t.now.plus(1);
        t.first(2, &fragment(id, 0, 64, true), true).unwrap();
    }
    t.now = t.now.plus(1);
    assert!(is_known(&mut t, 2, 0), "used again");
    t.first(2, &fragment(4, 0, 64, true), true).unwrap();
    t.datagrams.check();
    assert!([0, 2, 3, 4].into_iter().all(|id| is_known(&mut t, 2, id)));
}

#[test]
fn a_full_table_takes_room_from_the_endpoint_with_the_most_datagrams() {
    let mut t = Table::new(CONFIG);
    // Three have a full share, one has three datagrams, and one has one.
    for pod in 2..5 {
        for id in 0..4 {
            t.first(pod, &fragment(id, 0, 64, true), true).unwrap();
        }
    }
    for id in 0..3 {
        t.first(5, &fragment(id, 0, 64, true), true).unwrap();
    }
    t.first(6, &fragment(0, 0, 64, true), true).unwrap();
    for n in 1..4 {
        t.first(7, &fragment(n, 0, 64, true), true).unwrap();
        t.datagrams.check();
        assert_eq!(t.datagrams.changed_totals().unwrap().datagrams, 16);
    }
    assert!((0..3).all(|id| is_known(&mut t, 5, id)) && is_known(&mut t, 6, 0));
    assert!((1..4).all(|id| is_known(&mut t, 7, id)));
}

#[derive(Clone, Debug)]
enum Step {
    First(u16, u32, bool),
    Later(u16, u32, u16, u16, bool, usize),
    Wait(u64),
    Close(u16),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let (pod, id) = (2_u16..8, 0_u32..6);
    prop_oneof![
        3 => (pod.clone(), id.clone(), any::<bool>()).prop_map(|(p, i, b)| Step::First(p, i, b)),
        9 => (pod.clone(), id, 1_u16..6, 1_u16..3, any::<bool>(), 1_usize..3)
            .prop_map(|(p, i, at, n, more, f)| Step::Later(p, i, at, n, more, f)),
        1 => (0_u64..400).prop_map(Step::Wait),
        1 => pod.prop_map(Step::Close),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    #[test]
    fn everything_agrees_and_every_packet_ends_once(steps in prop::collection::vec(step(), 1..300)) {
        let mut t = Table::new(CONFIG);
        let (mut kept, mut ended) = (0, 0);
        for step in steps {
            match step {
                Step::First(pod, id, passes) => {
                    let _ = t.first(pod, &fragment(id, 0, 64, true), passes);
                }
                Step::Later(pod, id, at, len, more, frames) => {
                    let p = fragment(id, at * 64, usize::from(len) * 64, more);
                    if let Later::Wait(ticket) = t.later(pod, &p) {
                        kept += usize::from(t.hold(pod, ticket, frames).is_ok());
                    }
                }
                Step::Wait(ms) => {
                    t.now = t.now.plus(ms);
                    t.datagrams.expire(t.now);
                }
                Step::Close(pod) => t.datagrams.close(PortId(pod)),
                Step::Settle => {
                    let (given_up, ready) = t.free_finished();
                    ended += given_up + ready;
                    prop_assert_eq!(t.held(), t.datagrams.check());
                }
            }
            prop_assert!(t.datagrams.check() <= 12);
        }
        let (given_up, ready) = t.free_finished();
        ended += given_up + ready;
        t.now = t.now.plus(10_000);
        t.datagrams.expire(t.now);
        let (given_up, ready) = t.free_finished();
        prop_assert_eq!(ready, 0);
        prop_assert_eq!((ended + given_up, t.held(), t.datagrams.check()), (kept, 0, 0));
    }
}
