//! Workers on their own threads that poll ports in memory, to measure the time from a change to the first packet that
//! each worker handles by it.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heddle_engine::testing::{NodeBuilder, Parts};
use heddle_engine::{PortRole, Worker, WorkerHandle};
use heddle_flow::{Config, Millis};
use heddle_port::{MemPort, MemWire, PortId};
use heddle_tables::publish::Publisher;
use heddle_tables::{EndpointId, Snapshot, WorkerId};
use heddle_wire::testing::Packet;
use heddle_wire::{Ip, MacAddr, Parsed, TcpFlags, parse};

/// The number of workers. Each owns the port of one pod; the first also owns the host port.
pub const WORKERS: u8 = 2;
/// The time limit for all packets: more than they take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time after which an idle worker sleeps: the agent's default.
const IDLE_AFTER: Duration = Duration::from_millis(2);
/// The pause between two looks at the workers' progress. The kernel's timer slack makes it about 60 µs.
const LOOK_AGAIN: Duration = Duration::from_micros(5);

/// A pod whose port a worker polls.
#[derive(Clone, Copy)]
pub struct Client {
    pub id: EndpointId,
    pub ip: Ip,
    pub mac: MacAddr,
    pub worker: WorkerId,
}

impl Client {
    /// Returns the first segment of a connection of this pod.
    pub fn syn(&self, to: Ip, sport: u16, dport: u16) -> Vec<u8> {
        Packet::new(self.mac, MacAddr::GATEWAY, self.ip, to).tcp(sport, dport, TcpFlags::SYN, 1, 0, b"")
    }
}

/// The times until a change was visible.
pub struct Seen {
    /// Until every worker has acknowledged the tables.
    pub taken: Duration,
    /// Until every worker has forwarded its client's packet.
    pub answered: Duration,
}

pub struct Workers {
    publisher: Publisher<Snapshot>,
    handles: Vec<WorkerHandle<MemPort>>,
    threads: Vec<JoinHandle<()>>,
    wires: Vec<MemWire>,
    host: MemWire,
}

impl Workers {
    /// Starts the workers with these tables. Each client's port belongs to `Client::worker`.
    pub fn start(tables: Arc<Snapshot>, clients: &[Client]) -> Self {
        let ports = clients.iter().map(|client| client.id.0).max().unwrap_or_default() + 1;
        let Parts {
            workers,
            handles,
            publisher,
            shared,
        } = NodeBuilder::new()
            .workers(WORKERS)
            .ports(ports)
            .lane(1024)
            .frames(4096)
            .frame_size(2048)
            .flows(Config {
                capacity: 1 << 20,
                quotas: heddle_flow::Quotas::default(),
                ..Config::default()
            })
            .idle_after(IDLE_AFTER)
            .build(tables)
            .expect("a node in memory")
            .into_parts();
        let start = Instant::now();
        let clock = move || Millis(1_000 + start.elapsed().as_millis() as u64);
        let spawn = |mut worker: Worker<MemPort>| {
            thread::spawn(move || {
                worker.run(clock);
                drop(worker.finish());
            })
        };
        let threads = workers.into_iter().map(spawn).collect();
        let open = |worker: WorkerId, number, role| {
            let (port, wire) = MemPort::new(number, shared.store());
            let added = handles[usize::from(worker.0)].add_port(port, role).expect("a worker");
            assert!(added.recv().expect("a worker").is_ok(), "the port is taken");
            wire
        };
        let host = open(WorkerId(0), PortId(0), PortRole::Host);
        let wires = clients
            .iter()
            .map(|client| open(client.worker, PortId(client.id.0), PortRole::Pod(client.id)))
            .collect();
        Self {
            publisher,
            handles,
            threads,
            wires,
            host,
        }
    }

    /// Publishes new tables and sends a frame from each client: `asked[n]` is a frame of client `n` that leaves by the
    /// host port. Returns the times since `began`, and the packets that left.
    pub fn publish(&mut self, tables: Arc<Snapshot>, asked: &[Vec<u8>], began: Instant) -> (Seen, Vec<Parsed>) {
        let version = tables.version();
        self.publisher.publish(tables);
        for (wire, frame) in self.wires.iter().zip(asked) {
            wire.push(frame);
        }
        let mut left = Vec::new();
        let (mut taken, mut answered) = (None, None);
        while taken.is_none() || answered.is_none() {
            assert!(
                began.elapsed() < PATIENCE,
                "{} of {} answered, {taken:?}",
                left.len(),
                asked.len()
            );
            while let Some(frame) = self.host.pop() {
                left.push(parse(&frame, frame.len()).expect("a frame of ours"));
            }
            if answered.is_none() && left.len() == asked.len() {
                answered = Some(began.elapsed());
            }
            if taken.is_none() && self.publisher.acknowledged() >= version {
                taken = Some(began.elapsed());
            }
            // Sleep as the control thread does: on two cores a busy wait would take time from the workers.
            thread::sleep(LOOK_AGAIN);
        }
        let seen = Seen {
            taken: taken.unwrap_or_default(),
            answered: answered.unwrap_or_default(),
        };
        (seen, left)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.handles.iter().for_each(WorkerHandle::stop);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok(), "a worker ends well");
        }
    }
}
