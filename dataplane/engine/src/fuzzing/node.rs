//! The fuzzers' node: workers over ports in memory, stepped by hand, and what is asserted of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use heddle_flow::{Config, FlowTable, Millis};
use heddle_port::{MemPort, MemWire, SharedPool, WorkerPool};
use heddle_tables::publish::{Publisher, channel};
use heddle_tables::{Direction, EndpointPolicy, Snapshot, SnapshotBuilder, WorkerId};
use heddle_wire::testing::{VerifyError, assert_valid, reassemble, verify};
use heddle_wire::{Ip, checksum, parse};

use super::cluster::{self, PARTIES, PORTS};
use crate::context::StageConfig;
use crate::control::WorkerHandle;
use crate::counters::PortTotals;
use crate::handover::mesh;
use crate::reassembly::FragmentConfig;
use crate::worker::{Worker, WorkerConfig};

const FRAMES: u32 = 512;

/// What names a datagram that left: by which port, between whom, which.
type Left = (u16, Ip, Ip, u32, u8);

/// The node.
pub(super) struct Node {
    workers: Vec<Worker<MemPort>>,
    handles: Vec<WorkerHandle<MemPort>>,
    wires: Vec<MemWire>,
    tables: SnapshotBuilder,
    publisher: Publisher<Snapshot>,
    shared: SharedPool,
    now: Millis,
    generation: u32,
    /// A packet with a wrong checksum came in, and may leave.
    tainted: bool,
    /// Fragments that left.
    fragments: BTreeMap<Left, Vec<Vec<u8>>>,
}

impl Node {
    pub(super) fn new(workers: u8) -> Self {
        let mut tables = cluster::tables(workers);
        let (publisher, readers) = channel(tables.build().0, usize::from(workers));
        let shared = SharedPool::heap(FRAMES, 4096);
        let flows = Arc::new(FlowTable::anonymous(&Config {
            capacity: 64,
            quota: Some(40),
            seed: Some([0x9e37_79b9_7f4a_7c15; 8]),
            ..Config::default()
        }));
        let (mut all, mut handles) = (Vec::new(), Vec::new());
        let ends = mesh(workers, 32).unwrap();
        for (id, (reader, ends)) in (0..).zip(readers.into_iter().zip(ends)) {
            let config = WorkerConfig {
                stages: StageConfig {
                    adopt_until: Millis(1_010_000),
                    fragments: FragmentConfig {
                        datagrams: 16,
                        held_frames: 24,
                        ..FragmentConfig::default()
                    },
                    ..StageConfig::default()
                },
                idle_after: Duration::MAX,
                ..WorkerConfig::new(WorkerId(id), PORTS)
            };
            let pool = WorkerPool::new(WorkerId(id), shared.clone());
            let (worker, handle) = Worker::new(config, pool, reader, Arc::clone(&flows), ends);
            all.push(worker);
            handles.push(handle);
        }
        let mut node = Self {
            workers: all,
            handles,
            wires: Vec::new(),
            tables,
            publisher,
            shared,
            now: Millis(1_000_000),
            generation: 0,
            tainted: false,
            fragments: BTreeMap::new(),
        };
        for party in &PARTIES {
            let (port, wire) = MemPort::new(party.port, node.shared.store());
            let worker = usize::from(cluster::worker_of(party, workers).0);
            let added = node.handles[worker].add_port(port, party.role()).unwrap();
            node.workers[worker].turn(node.now);
            assert!(added.recv().unwrap().is_ok(), "the number is free");
            node.wires.push(wire);
        }
        node
    }

    fn count(&self) -> u8 {
        self.workers.len() as u8
    }

    /// Puts a frame into a party's port.
    pub(super) fn push(&mut self, party: usize, frame: &[u8]) {
        if let Ok(p) = parse(frame, frame.len())
            && !checksum::verify(&p, [frame])
            && !checksum::is_partial(frame, &p)
        {
            self.tainted = true;
        }
        self.wires[party].push(frame);
    }

    /// Lets every worker turn until none has anything to do, and verifies what left.
    pub(super) fn turn(&mut self) {
        for _ in 0..1000 {
            let busy = self
                .workers
                .iter_mut()
                .fold(false, |busy, w| busy | w.turn(self.now).is_busy());
            if !busy {
                return self.collect();
            }
        }
        panic!("the workers do not come to rest");
    }

    fn collect(&mut self) {
        for (party, wire) in PARTIES.iter().zip(&self.wires) {
            while let Some(frame) = wire.pop() {
                match verify(&frame) {
                    Ok(()) => {}
                    Err(VerifyError::Checksum { what, .. }) if self.tainted && what != "IPv4 header" => {}
                    Err(_) => assert_valid(&frame),
                }
                let p = parse(&frame, frame.len()).unwrap_or_else(|e| panic!("{e} of what left: {frame:02x?}"));
                if p.is_fragment() {
                    let left = (party.port.0, p.src, p.dst, p.fragment_id, p.proto.0);
                    self.fragments.entry(left).or_default().push(frame);
                }
            }
        }
    }

    /// Datagrams of which all fragments left are whole and valid: `ids` are those that were sent whole and once.
    pub(super) fn check_datagrams(&mut self, ids: &[u32]) {
        for ((.., id, _), fragments) in std::mem::take(&mut self.fragments) {
            if ids.contains(&id)
                && let Some(whole) = reassemble(&fragments)
            {
                assert_valid(&whole);
            }
        }
    }

    /// Time passes.
    pub(super) fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
    }

    /// Policy of a pod changes.
    pub(super) fn set_policy(&mut self, party: usize, what: u8) {
        let policy = match what % 4 {
            0 => cluster::isolate(Direction::Ingress, None),
            1 => cluster::isolate(Direction::Ingress, PARTIES.get(1)),
            2 => cluster::isolate(Direction::Egress, PARTIES.get(2)),
            _ => EndpointPolicy::open(),
        };
        let mtu = if what & 4 == 0 { 61_000 } else { 1400 };
        self.generation += 1;
        let endpoint = cluster::endpoint(&PARTIES[party], self.count(), self.generation, mtu, policy);
        self.tables.set_endpoint(endpoint);
        self.publish();
    }

    /// The Service's backends change.
    pub(super) fn serve(&mut self, which: u8) {
        let chosen = PARTIES.iter().enumerate().filter(|(n, _)| which >> n & 1 == 1);
        let backends: Vec<_> = chosen.map(|(_, party)| party).collect();
        cluster::serve(&mut self.tables, &backends);
        self.publish();
    }

    fn publish(&mut self) {
        let (snapshot, _) = self.tables.build();
        self.publisher.publish(snapshot);
    }

    /// The TX ring of a port has room for so many frames.
    pub(super) fn set_room(&self, party: usize, frames: usize) {
        self.wires[party].set_tx_room(frames);
    }

    /// Ends the node; every frame is there, every packet has ended once.
    pub(super) fn finish(mut self) -> PortTotals {
        self.collect();
        let mut pool = WorkerPool::new(WorkerId(99), self.shared.clone());
        for worker in self.workers.drain(..) {
            for (port, _) in worker.finish() {
                port.close(&mut pool);
            }
        }
        drop(pool);
        assert_eq!(self.shared.store().outstanding(), 0, "frames were lost");
        assert_eq!(self.shared.free(), FRAMES);
        let mut all = PortTotals::default();
        for party in &PARTIES {
            let mut totals = PortTotals::default();
            self.handles
                .iter()
                .for_each(|h| totals += &h.counters().port_totals(party.port));
            assert_eq!(totals.rx_packets, totals.ended(), "a packet ended twice or never");
            assert_eq!(totals.dropped[crate::DropReason::NoVerdict as usize], 0);
            all += &totals;
        }
        all
    }
}
