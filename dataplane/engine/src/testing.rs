//! One node in memory: workers, the other ends of their ports, and the counters that changed. Tests, benches, `heddle replay` and
//! the fuzzers run the workers' code with it, without a thread, a socket or a clock.
//!
//! [`NodeBuilder`] makes a [`Node`]. [`Node::push`] puts a frame into a port, [`Node::step`] lets the workers turn until they are
//! at rest, [`Node::pop`] takes a frame that left, and [`Node::changes`] returns the counters that changed.
//! [`Node::into_parts`] takes the node apart, for a test whose workers run on threads of their own.
//!
//! It verifies no frames and makes no tables. Tables come from a `SnapshotBuilder` or from the compiler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use heddle_flow::{FlowTable, Millis};
use heddle_port::{Capabilities, MemPort, MemWire, Port, PortId, SharedPool, WorkerPool};
use heddle_tables::publish::{Publisher, channel};
use heddle_tables::{Snapshot, WorkerId};

use crate::context::StageConfig;
use crate::control::WorkerHandle;
use crate::counters::{PortTotals, WorkerTotals};
use crate::handover::mesh;
use crate::ingress::PortRole;
use crate::reason::{AbsorbReason, AnswerKind, DropReason};
use crate::worker::{Worker, WorkerConfig};

/// The number of turns after which workers with work left are considered stuck.
const MOST_TURNS: u32 = 100_000;

/// The error of a node in memory.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel gave no descriptors for the workers' wake-ups.
    #[error("the workers cannot be made: {0}: raise the limit of open files")]
    Workers(#[from] std::io::Error),
    /// A worker did not take a port.
    #[error("port {port} cannot be added to worker {worker}: {why}")]
    Port {
        /// The port.
        port: PortId,
        /// The worker.
        worker: u8,
        /// The worker's reason.
        why: String,
    },
    /// The workers still had work after 100,000 turns.
    #[error("the workers did not come to rest in {MOST_TURNS} turns: packets go round in a circle")]
    Restless,
}

/// The parameters of a node in memory.
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    workers: u8,
    ports: u16,
    lane: u32,
    frames: u32,
    frame_size: u32,
    flows: heddle_flow::Config,
    stages: StageConfig,
    idle_after: Duration,
    now: Millis,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self {
            workers: 1,
            ports: 32,
            lane: 256,
            frames: 1024,
            frame_size: 4096,
            flows: repeatable_flows(1024),
            stages: StageConfig::default(),
            idle_after: Duration::MAX,
            now: Millis(1_000_000),
        }
    }
}

/// Returns the configuration of a flow table without quotas, whose hash has a fixed key, so that a failure repeats.
#[must_use]
pub fn repeatable_flows(capacity: u32) -> heddle_flow::Config {
    heddle_flow::Config {
        capacity,
        quotas: heddle_flow::Quotas::default(),
        // The digits of e.
        seed: Some([
            0xb7e1_5162_8aed_2a6a,
            0xbf71_5880_9cf4_f3c7,
            0x62e7_160f_38b4_da56,
            0xa784_d904_5190_cfef,
            0x324e_7738_926c_fbe5,
            0xf4bf_8d8d_8c31_d763,
            0xda06_c80a_bb11_85eb,
            0x4f7c_7b57_57f5_9584,
        ]),
        ..heddle_flow::Config::default()
    }
}

impl NodeBuilder {
    /// Starts with one worker, room for 32 ports, 1,024 frames of 4 KiB and 1,024 connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of workers.
    #[must_use]
    pub fn workers(mut self, workers: u8) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the limit of the port numbers: numbers are below it.
    #[must_use]
    pub fn ports(mut self, ports: u16) -> Self {
        self.ports = ports;
        self
    }

    /// Sets the number of frames that the hand-over lanes of each worker hold.
    #[must_use]
    pub fn lane(mut self, frames: u32) -> Self {
        self.lane = frames;
        self
    }

    /// Sets the number of frames.
    #[must_use]
    pub fn frames(mut self, frames: u32) -> Self {
        self.frames = frames;
        self
    }

    /// Sets the size of each frame.
    #[must_use]
    pub fn frame_size(mut self, octets: u32) -> Self {
        self.frame_size = octets;
        self
    }

    /// Sets the configuration of the flow table that [`build`](Self::build) makes.
    #[must_use]
    pub fn flows(mut self, config: heddle_flow::Config) -> Self {
        self.flows = config;
        self
    }

    /// Sets the configuration of the workers' stages.
    #[must_use]
    pub fn stages(mut self, config: StageConfig) -> Self {
        self.stages = config;
        self
    }

    /// Sets how long a worker on a thread of its own polls without work before it sleeps. By default it never sleeps.
    #[must_use]
    pub fn idle_after(mut self, time: Duration) -> Self {
        self.idle_after = time;
        self
    }

    /// Sets the time at which the node begins.
    #[must_use]
    pub fn now(mut self, now: Millis) -> Self {
        self.now = now;
        self
    }

    /// Makes the node over these tables, with a flow table of its own and no ports.
    ///
    /// # Errors
    /// The kernel gives no descriptors.
    pub fn build<P: Port>(self, tables: Arc<Snapshot>) -> Result<Node<P>, NodeError> {
        let flows = FlowTable::anonymous(&self.flows);
        self.build_over(tables, Arc::new(flows))
    }

    /// Makes the node over an existing flow table.
    ///
    /// # Errors
    /// The kernel gives no descriptors.
    pub fn build_over<P: Port>(self, tables: Arc<Snapshot>, flows: Arc<FlowTable>) -> Result<Node<P>, NodeError> {
        let (publisher, readers) = channel(tables, usize::from(self.workers));
        let shared = SharedPool::heap(self.frames, self.frame_size);
        let (mut workers, mut handles) = (Vec::new(), Vec::new());
        for (id, (reader, ends)) in (0..).zip(readers.into_iter().zip(mesh(self.workers, self.lane, self.ports)?)) {
            let config = WorkerConfig {
                stages: self.stages,
                idle_after: self.idle_after,
                ..WorkerConfig::new(WorkerId(id), self.ports)
            };
            let pool = WorkerPool::new(WorkerId(id), shared.clone());
            let (worker, handle) = Worker::new(config, pool, reader, Arc::clone(&flows), ends);
            workers.push(worker);
            handles.push(handle);
        }
        Ok(Node {
            workers,
            handles,
            publisher,
            flows,
            shared,
            frames: self.frames,
            ports: self.ports,
            now: self.now,
            wires: BTreeMap::new(),
            seen: BTreeMap::new(),
        })
    }
}

/// A node in memory. Its workers turn only when the caller calls [`Node::step`] or [`Node::turn`].
pub struct Node<P = MemPort> {
    workers: Vec<Worker<P>>,
    handles: Vec<WorkerHandle<P>>,
    publisher: Publisher<Snapshot>,
    flows: Arc<FlowTable>,
    shared: SharedPool,
    frames: u32,
    ports: u16,
    now: Millis,
    wires: BTreeMap<PortId, MemWire>,
    /// The counters at the last call of [`Self::changes`].
    seen: BTreeMap<PortId, PortTotals>,
}

/// The parts of a node whose workers run on threads of their own.
pub struct Parts<P> {
    /// The workers, by number.
    pub workers: Vec<Worker<P>>,
    /// Their control ends, by number.
    pub handles: Vec<WorkerHandle<P>>,
    /// The publishing end of the tables.
    pub publisher: Publisher<Snapshot>,
    /// The packet memory.
    pub shared: SharedPool,
}

impl Node<MemPort> {
    /// Opens a port in memory and gives it to a worker.
    ///
    /// # Errors
    /// The worker does not take it: the id is taken or beyond those that the node was made for.
    pub fn open(&mut self, worker: u8, id: PortId, role: PortRole) -> Result<(), NodeError> {
        self.open_with(worker, id, role, Capabilities::VETH)
    }

    /// Opens a port in memory with these capabilities and gives it to a worker.
    ///
    /// # Errors
    /// As for [`Node::open`].
    pub fn open_with(
        &mut self,
        worker: u8,
        id: PortId,
        role: PortRole,
        capabilities: Capabilities,
    ) -> Result<(), NodeError> {
        let (port, wire) = MemPort::with_capabilities(id, self.shared.store(), capabilities);
        self.add(worker, port, role)?;
        self.wires.insert(id, wire);
        Ok(())
    }

    /// Returns the other end of a port.
    #[must_use]
    pub fn wire(&self, port: PortId) -> Option<&MemWire> {
        self.wires.get(&port)
    }

    /// Puts a frame into a port. Does nothing if there is no such port.
    pub fn push(&self, port: PortId, frame: &[u8]) {
        if let Some(wire) = self.wires.get(&port) {
            wire.push(frame);
        }
    }

    /// Takes the next frame that left by a port.
    #[must_use]
    pub fn pop(&self, port: PortId) -> Option<Vec<u8>> {
        self.wires.get(&port)?.pop()
    }

    /// Ends the workers, closes their ports and returns the number of missing frames, which is 0 unless one was lost. Held
    /// fragments are dropped and counted here. The counters can still be read.
    #[must_use]
    pub fn finish(&mut self) -> u32 {
        let shared = self.shared.clone();
        let mut pool = WorkerPool::new(WorkerId(u8::MAX), shared.clone());
        for (port, _) in self.take_ports() {
            port.close(&mut pool);
        }
        drop(pool);
        self.frames - shared.free()
    }
}

impl<P: Port> Node<P> {
    /// Gives a port of any kind to a worker.
    ///
    /// # Errors
    /// The worker refuses the port.
    pub fn add(&mut self, worker: u8, port: P, role: PortRole) -> Result<(), NodeError> {
        let id = port.id();
        let error = |why: String| NodeError::Port { port: id, worker, why };
        let (Some(handle), Some(turned)) = (
            self.handles.get(usize::from(worker)),
            self.workers.get_mut(usize::from(worker)),
        ) else {
            return Err(error("there is no such worker".to_owned()));
        };
        let added = handle.add_port(port, role).map_err(|gone| error(gone.to_string()))?;
        turned.turn(self.now);
        match added.try_recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(error(refused.to_string())),
            Err(_) => Err(error("it did not reply".to_owned())),
        }
    }

    /// Lets every worker turn until none has work.
    ///
    /// # Errors
    /// The workers do not come to rest.
    pub fn step(&mut self) -> Result<(), NodeError> {
        for _ in 0..MOST_TURNS {
            let mut busy = false;
            for worker in &mut self.workers {
                busy |= worker.turn(self.now).is_busy();
            }
            if !busy {
                return Ok(());
            }
        }
        Err(NodeError::Restless)
    }

    /// Lets one worker turn once. Benches measure it.
    #[inline]
    pub fn turn(&mut self, worker: usize) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.turn(self.now);
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, millis: u64) {
        self.now = self.now.plus(millis);
    }

    /// Sets the time, which must not go back.
    pub fn set_now(&mut self, now: Millis) {
        self.now = now;
    }

    /// Returns the time.
    #[must_use]
    pub const fn now(&self) -> Millis {
        self.now
    }

    /// Publishes tables. Workers take them in their next turn.
    pub fn publish(&mut self, tables: Arc<Snapshot>) {
        self.publisher.publish(tables);
    }

    /// Returns the publishing end of the tables.
    #[must_use]
    pub const fn publisher(&self) -> &Publisher<Snapshot> {
        &self.publisher
    }

    /// Returns the flow table.
    #[must_use]
    pub const fn flows(&self) -> &Arc<FlowTable> {
        &self.flows
    }

    /// Returns the packet memory.
    #[must_use]
    pub const fn shared(&self) -> &SharedPool {
        &self.shared
    }

    /// Returns the control ends of the workers.
    #[must_use]
    pub fn handles(&self) -> &[WorkerHandle<P>] {
        &self.handles
    }

    /// Returns the workers.
    pub fn workers_mut(&mut self) -> &mut Vec<Worker<P>> {
        &mut self.workers
    }

    /// Returns the sums over all workers for one port.
    #[must_use]
    pub fn totals(&self, port: PortId) -> PortTotals {
        let mut sum = PortTotals::default();
        for handle in &self.handles {
            sum += &handle.counters().port_totals(port);
        }
        sum
    }

    /// Returns each worker's counts that belong to no port.
    #[must_use]
    pub fn worker_totals(&self) -> Vec<WorkerTotals> {
        self.handles.iter().map(|handle| handle.counters().totals()).collect()
    }

    /// Returns the counters of each port that changed since the last call, by name ([`counts`]).
    pub fn changes(&mut self) -> Vec<(PortId, String, u64)> {
        let mut changes = Vec::new();
        for port in (0..self.ports).map(PortId) {
            let now = self.totals(port);
            let before = self.seen.insert(port, now.clone()).unwrap_or_default();
            for ((name, new), (_, old)) in counts(&now).into_iter().zip(counts(&before)) {
                if new != old {
                    changes.push((port, name, new - old));
                }
            }
        }
        changes
    }

    /// Takes the node apart.
    #[must_use]
    pub fn into_parts(self) -> Parts<P> {
        Parts {
            workers: self.workers,
            handles: self.handles,
            publisher: self.publisher,
            shared: self.shared,
        }
    }

    /// Ends the workers and returns their ports.
    pub fn take_ports(&mut self) -> Vec<(P, PortRole)> {
        self.workers.drain(..).flat_map(Worker::finish).collect()
    }
}

/// Returns a port's packet counters by name: `rx`, `tx`, `forwarded`, `answered KIND`, `dropped REASON` and so on.
#[must_use]
pub fn counts(totals: &PortTotals) -> Vec<(String, u64)> {
    let mut list = vec![
        ("rx".to_owned(), totals.rx_packets),
        ("tx".to_owned(), totals.tx_packets),
        ("forwarded".to_owned(), totals.forwarded),
        ("fragments".to_owned(), totals.fragments),
        ("fragments-lost".to_owned(), totals.fragments_lost),
    ];
    let answers = AnswerKind::ALL.iter().zip(totals.answered);
    list.extend(answers.map(|(kind, n)| (format!("answered {kind}"), n)));
    let absorptions = AbsorbReason::ALL.iter().zip(totals.absorbed);
    list.extend(absorptions.map(|(reason, n)| (format!("absorbed {reason}"), n)));
    let drops = DropReason::ALL.iter().zip(totals.dropped);
    list.extend(drops.map(|(reason, n)| (format!("dropped {reason}"), n)));
    list
}
