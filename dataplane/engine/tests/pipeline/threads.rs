//! Workers on threads of their own: hand-over, sleep and wake-up, snapshots and control messages while packets flow.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heddle_engine::testing::{NodeBuilder, Parts};
use heddle_engine::{PortRole, PortTotals, Worker, WorkerHandle};
use heddle_flow::{Config, Millis};
use heddle_port::{Capabilities, Packet, PacketVec, Port, PortId, PortStats, WorkerPool};
use heddle_tables::{Direction, EndpointPolicy, Generation};
use heddle_wire::testing::assert_valid;
use rustix::event::{EventfdFlags, eventfd};

use crate::tables::{A, B, C, HOST, PODS, PORTS, Party, endpoint, isolate, node, worker_of};

/// A port that wakes its worker. Frames come from a queue with an eventfd.
struct EventPort {
    number: PortId,
    line: Arc<Line>,
    sent: Vec<Packet>,
}

struct Line {
    incoming: Mutex<VecDeque<Vec<u8>>>,
    outgoing: Mutex<Vec<Vec<u8>>>,
    left: AtomicUsize,
    event: OwnedFd,
}

impl Line {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
            left: AtomicUsize::new(0),
            event: eventfd(0, EventfdFlags::NONBLOCK).unwrap(),
        })
    }

    fn push(&self, frame: Vec<u8>) {
        self.incoming.lock().unwrap().push_back(frame);
        rustix::io::write(&self.event, &1_u64.to_ne_bytes()).unwrap();
    }
}

impl Port for EventPort {
    fn id(&self) -> PortId {
        self.number
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::VETH
    }

    fn rx(&mut self, pool: &mut WorkerPool, out: &mut PacketVec) -> usize {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.line.event, &mut count);
        let before = out.len();
        let mut incoming = self.line.incoming.lock().unwrap();
        while !out.is_full() {
            let Some(frame) = incoming.pop_front() else { break };
            out.push(pool.packet(&frame).unwrap());
        }
        out.len() - before
    }

    fn tx(&mut self, _: &mut WorkerPool, packets: &mut PacketVec) {
        self.sent.extend(packets.drain(..));
    }

    fn flush(&mut self, pool: &mut WorkerPool) {
        let store = Arc::clone(pool.store_arc());
        for packet in self.sent.drain(..) {
            self.line.outgoing.lock().unwrap().push(packet.to_vec(&store));
            pool.free_packet(packet);
            self.line.left.fetch_add(1, Ordering::Release);
        }
    }

    fn unsent(&self) -> bool {
        false
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.line.event.as_fd())
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} does not happen");
        std::thread::yield_now();
    }
}

fn total(handles: &[WorkerHandle<EventPort>], party: &Party) -> PortTotals {
    let mut sum = PortTotals::default();
    for h in handles {
        sum += &h.counters().port_totals(party.port);
    }
    sum
}

/// Runs `workers` workers that sleep as soon as they can, with a line for each pod and the host, and ends them.
fn run(workers: u8, test: impl FnOnce(&[WorkerHandle<EventPort>], &dyn Fn(&Party) -> Arc<Line>, Publish<'_>)) {
    let mut tables = node(workers);
    let Parts {
        workers: made,
        handles,
        mut publisher,
        shared,
    } = NodeBuilder::new()
        .workers(workers)
        .ports(PORTS)
        .lane(1024)
        .frames(4096)
        .frame_size(2048)
        .flows(Config {
            capacity: 4096,
            ..Config::default()
        })
        .idle_after(Duration::ZERO)
        .build(tables.build().0)
        .unwrap()
        .into_parts();
    let start = Instant::now();
    let clock = move || Millis(1_000 + start.elapsed().as_millis() as u64);
    // The workers, each on a thread, which sleep at once without work.
    let spawn = |mut worker: Worker<EventPort>| {
        std::thread::spawn(move || {
            worker.run(clock);
            worker
        })
    };
    let threads: Vec<_> = made.into_iter().map(spawn).collect();
    // Their ports.
    let mut lines = Vec::new();
    let hosts = (0..workers).map(|w| (w, PortId(u16::from(w)), PortRole::Host));
    let pods = PODS
        .iter()
        .map(|p| (worker_of(p, workers).0, p.port, PortRole::Pod(p.endpoint)));
    for (worker, number, role) in hosts.chain(pods) {
        let line = Line::new();
        lines.push((number, Arc::clone(&line)));
        let added = handles[usize::from(worker)]
            .add_port(
                EventPort {
                    number,
                    line,
                    sent: Vec::new(),
                },
                role,
            )
            .unwrap();
        added.recv().unwrap().unwrap();
    }
    // The test, with access to the lines and to the publication.
    let line_of = |p: &Party| Arc::clone(&lines.iter().find(|(n, _)| *n == p.port).unwrap().1);
    let publish = |pod: &Party, generation: u32, policy: Arc<EndpointPolicy>| {
        let e = endpoint(pod, worker_of(pod, workers), Generation(generation), Some(policy));
        tables.set_endpoint(e);
        let version = tables.build().0;
        let number = version.version();
        publisher.publish(version);
        eventually("a snapshot is taken", || publisher.acknowledged() >= number);
    };
    test(&handles, &line_of, Box::new(publish));
    // The end: no frame is missing, every packet has ended once, and every packet that left is valid.
    for h in &handles {
        h.stop();
    }
    let ended: Vec<Worker<EventPort>> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    for worker in ended {
        assert!(worker.is_stopped());
        drop(worker.finish());
    }
    assert_eq!(shared.store().outstanding(), 0);
    for (number, line) in &lines {
        let mut sum = PortTotals::default();
        for h in &handles {
            sum += &h.counters().port_totals(*number);
        }
        assert_eq!(sum.rx_packets, sum.ended());
        line.outgoing.lock().unwrap().iter().for_each(|f| assert_valid(f));
    }
}

type Publish<'a> = Box<dyn FnMut(&Party, u32, Arc<EndpointPolicy>) + 'a>;

#[test]
fn packets_cross_between_workers_and_none_is_lost() {
    const EACH: usize = 2_000;
    for workers in 1..=3 {
        run(workers, |handles, line, _| {
            let ends = [(A, B), (B, C), (C, A), (A, HOST)];
            for n in 0..EACH {
                for (from, to) in &ends {
                    let sport = 1000 + (n % 50) as u16;
                    line(from).push(from.to(to.v4()).udp(sport, 53, b"payload"));
                }
            }
            for pod in [&A, &B, &C] {
                let sent = EACH as u64 * if pod.name == "a" { 2 } else { 1 };
                eventually("all packets end", || total(handles, pod).ended() == sent);
                let t = total(handles, pod);
                assert_eq!(t.forwarded + t.dropped.iter().sum::<u64>(), sent);
                // Lanes are bounded; what they have no room for is dropped under its own name.
                let full = t.dropped[heddle_engine::DropReason::HandoverQueueFull as usize];
                assert_eq!(t.forwarded + full, sent);
            }
        });
    }
}

#[test]
fn sleeping_workers_wake_for_packets_hand_over_and_control() {
    for workers in 1..=3 {
        run(workers, |handles, line, _| {
            for round in 1..=50 {
                line(&A).push(A.to(B.v4()).udp(1000, 53, b"x"));
                eventually("the packet arrives", || line(&B).left.load(Ordering::Acquire) == round);
            }
            assert!(handles.iter().all(|h| h.counters().totals().sleeps > 0));
        });
    }
}

#[test]
fn a_policy_that_is_acknowledged_holds_for_every_later_packet() {
    for workers in 1..=3 {
        run(workers, |handles, line, mut publish| {
            line(&A).push(A.to(B.v4()).udp(1000, 53, b"x"));
            eventually("the packet arrives", || line(&B).left.load(Ordering::Acquire) == 1);
            for round in 0..20_u32 {
                publish(&B, 2 * round + 1, isolate(Direction::Ingress, &[]));
                line(&A).push(A.to(B.v4()).udp(1000, 53, b"x"));
                let sent = u64::from(2 * round + 2);
                eventually("the packet ends", || total(handles, &A).ended() == sent);
                assert_eq!(total(handles, &A).forwarded, u64::from(round) + 1);
                publish(&B, 2 * round + 2, Arc::new(EndpointPolicy::open()));
                line(&A).push(A.to(B.v4()).udp(1000, 53, b"x"));
                eventually("the packet ends", || total(handles, &A).ended() == sent + 1);
                assert_eq!(total(handles, &A).forwarded, u64::from(round) + 2);
            }
        });
    }
}

#[test]
fn ports_come_and_go_under_traffic_and_no_frame_is_lost() {
    for workers in 1..=3 {
        run(workers, |handles, line, _| {
            let owner = &handles[worker_of(&B, workers).index()];
            let mut sent = 0;
            for _ in 0..100 {
                for n in 0..20 {
                    line(&A).push(A.to(B.v4()).udp(1000 + n, 53, b"payload"));
                    line(&C).push(C.to(B.v4()).udp(1000 + n, 53, b"payload"));
                    sent += 1;
                }
                let port = owner.remove_port(B.port).unwrap().recv().unwrap().unwrap();
                assert!(port.sent.is_empty(), "something was left in the port");
                owner
                    .add_port(port, PortRole::Pod(B.endpoint))
                    .unwrap()
                    .recv()
                    .unwrap()
                    .unwrap();
            }
            for pod in [&A, &C] {
                eventually("all packets end", || total(handles, pod).ended() == sent);
                let t = total(handles, pod);
                let closed = t.dropped[heddle_engine::DropReason::PortClosed as usize];
                let full = t.dropped[heddle_engine::DropReason::HandoverQueueFull as usize];
                assert_eq!(t.forwarded + closed + full, sent);
            }
        });
    }
}
