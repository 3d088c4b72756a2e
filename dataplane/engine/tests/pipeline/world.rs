//! The tests' node in memory. It verifies every packet that leaves, and accounts for every frame, octet and drop.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use heddle_engine::testing::{Node, NodeBuilder, repeatable_flows};
use heddle_engine::{PortRole, PortTotals, StageConfig, WorkerHandle};
use heddle_flow::{Config, FlowState, FlowTable, Millis};
use heddle_port::{Capabilities, MemPort, MemWire, PortId};
use heddle_tables::{EndpointPolicy, Generation, SnapshotBuilder};
use heddle_wire::testing::assert_valid;
use heddle_wire::{MacAddr, Parsed, parse};

use crate::nodes;
use crate::tables::{self, A, B, C, PODS, PORTS, Party, UPLINK, worker_of};

const FRAMES: u32 = 1024;

/// The parameters of a world.
#[derive(Clone, Debug)]
pub struct Options {
    pub workers: u8,
    /// The frames that the hand-over lanes of each worker hold.
    pub lane: u32,
    pub flows: u32,
    /// The most connections of one pod.
    pub quota: Option<u32>,
    /// The most connections of one payer that are masqueraded to one destination.
    pub port_share: Option<u32>,
    /// True if the kernels at the ports of pods and of the host leave segmentation to the device.
    pub large_segments: bool,
    pub stages: StageConfig,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            lane: 256,
            flows: 1024,
            quota: None,
            port_share: None,
            large_segments: false,
            stages: StageConfig::default(),
        }
    }
}

pub struct World {
    pub options: Options,
    pub tables: SnapshotBuilder,
    pub node: Node,
    pub now: Millis,
    generation: Generation,
    pushed: BTreeMap<u16, u64>,
    popped: BTreeMap<u16, u64>,
    outputs: BTreeMap<u16, VecDeque<Vec<u8>>>,
}

/// The configuration of the flow table.
pub fn config(options: &Options) -> Config {
    Config {
        quotas: heddle_flow::Quotas {
            per_pod: options.quota,
            per_masquerade_destination: options.port_share,
            ..heddle_flow::Quotas::default()
        },
        ..repeatable_flows(options.flows)
    }
}

/// Runs a test on nodes with one, two and three workers. The owner of a port must make no difference.
pub fn worlds(test: impl Fn(&mut World)) {
    for workers in 1..=3 {
        let mut world = World::new(Options {
            workers,
            ..Options::default()
        });
        test(&mut world);
    }
}

impl World {
    pub fn new(options: Options) -> Self {
        let flows = FlowTable::anonymous(&config(&options));
        Self::over(options, flows)
    }

    /// Makes a node over an existing flow table.
    pub fn over(options: Options, flows: FlowTable) -> Self {
        let mut tables = tables::node(options.workers);
        nodes::set(&mut tables);
        let node = NodeBuilder::new()
            .workers(options.workers)
            .ports(PORTS)
            .lane(options.lane)
            .frames(FRAMES)
            .stages(options.stages)
            .build_over(tables.build().0, Arc::new(flows))
            .unwrap();
        let mut world = Self {
            tables,
            now: node.now(),
            node,
            generation: Generation(0),
            pushed: BTreeMap::new(),
            popped: BTreeMap::new(),
            outputs: BTreeMap::new(),
            options,
        };
        for w in 0..world.options.workers {
            world.add_port(w, PortId(u16::from(w)), PortRole::Host);
        }
        world.add_port(world.options.workers - 1, UPLINK.port, PortRole::Uplink);
        for pod in &PODS {
            world.add_port(
                worker_of(pod, world.options.workers).0,
                pod.port,
                PortRole::Pod(pod.endpoint),
            );
        }
        world
    }

    pub fn add_port(&mut self, worker: u8, port: PortId, role: PortRole) {
        self.node.set_now(self.now);
        let large = self.options.large_segments && role != PortRole::Uplink;
        let capabilities = Capabilities {
            rx_large_segments: large,
            tx_large_segments: large,
            ..Capabilities::VETH
        };
        self.node.open_with(worker, port, role, capabilities).unwrap();
    }

    pub fn wire(&self, party: &Party) -> &MemWire {
        self.node.wire(party.port).unwrap()
    }

    /// Puts a frame into the port of `party`.
    pub fn push(&mut self, party: &Party, frame: &[u8]) {
        *self.pushed.entry(party.port.0).or_default() += frame.len() as u64;
        self.wire(party).push(frame);
    }

    /// Puts a frame into the port of `party`, in several frames of at most `chunk` bytes.
    pub fn pushed_split(&mut self, party: &Party, frame: &[u8], chunk: usize) {
        *self.pushed.entry(party.port.0).or_default() += frame.len() as u64;
        self.wire(party).push_split(frame, chunk);
    }

    /// Lets every worker turn until none has work.
    pub fn step(&mut self) {
        self.node.set_now(self.now);
        self.node.step().unwrap();
        self.collect();
    }

    /// Lets one worker turn once.
    pub fn turn(&mut self, worker: usize) {
        self.node.set_now(self.now);
        self.node.turn(worker);
    }

    /// Takes the frames that left by each port and verifies them. All of the host's queues count as the host.
    pub fn collect(&mut self) {
        for port in 0..PORTS {
            while let Some(frame) = self.node.pop(PortId(port)) {
                assert_valid(&frame);
                *self.popped.entry(port).or_default() += frame.len() as u64;
                let party = if port < u16::from(self.options.workers) {
                    0
                } else {
                    port
                };
                self.outputs.entry(party).or_default().push_back(frame);
            }
        }
    }

    /// Takes the next frame that reached `party`.
    #[track_caller]
    pub fn pop(&mut self, party: &Party) -> Vec<u8> {
        let frame = self.outputs.get_mut(&party.port.0).and_then(VecDeque::pop_front);
        let Some(frame) = frame else {
            panic!("nothing reached {}: {:?}", party.name, self.changes());
        };
        frame
    }

    /// Returns true if a frame that no test has taken reached `party`.
    pub fn has_reached(&self, party: &Party) -> bool {
        self.outputs.get(&party.port.0).is_some_and(|frames| !frames.is_empty())
    }

    /// Pushes a frame at `from`, asserts that it reaches `to`, and returns it as it arrived.
    #[track_caller]
    pub fn pass(&mut self, from: &Party, to: &Party, frame: &[u8]) -> (Vec<u8>, Parsed) {
        self.push(from, frame);
        self.step();
        let out = self.pop(to);
        let p = parse(&out, out.len()).unwrap();
        assert_eq!(heddle_wire::ether::destination(&out), Some(to.mac), "destination MAC");
        assert_eq!(heddle_wire::ether::source(&out), Some(MacAddr::GATEWAY), "source MAC");
        self.changed(&expected(from, to));
        (out, p)
    }

    /// Pushes a frame at `from`, asserts that it gets a local reply, and returns the reply.
    #[track_caller]
    pub fn answered(&mut self, from: &Party, frame: &[u8], kind: &str) -> (Vec<u8>, Parsed) {
        self.push(from, frame);
        self.step();
        let out = self.pop(from);
        let p = parse(&out, out.len()).unwrap();
        let n = from.name;
        self.changed(&[
            &format!("{n} rx 1"),
            &format!("{n} tx 1"),
            &format!("{n} answered {kind} 1"),
        ]);
        (out, p)
    }

    /// Pushes a frame at `from` and asserts that it is dropped for `reason`.
    #[track_caller]
    pub fn dropped(&mut self, from: &Party, frame: &[u8], reason: &str) {
        self.push(from, frame);
        self.step();
        let n = from.name;
        self.changed(&[&format!("{n} rx 1"), &format!("{n} dropped {reason} 1")]);
    }

    /// Pushes a frame at `from` and asserts that it is absorbed for `reason`.
    #[track_caller]
    pub fn absorbed(&mut self, from: &Party, frame: &[u8], reason: &str) {
        self.push(from, frame);
        self.step();
        let n = from.name;
        self.changed(&[&format!("{n} rx 1"), &format!("{n} absorbed {reason} 1")]);
    }

    fn totals(&self, port: u16) -> PortTotals {
        self.node.totals(PortId(port))
    }

    /// Returns the counters that changed since the last call, summed over all workers, as `PARTY COUNTER CHANGE`. The host's
    /// queues are one party.
    pub fn changes(&mut self) -> Vec<String> {
        let mut changes = BTreeMap::<(String, String), u64>::new();
        for (port, what, n) in self.node.changes() {
            let name = [A, B, C, UPLINK]
                .iter()
                .find(|p| p.port == port)
                .map_or("host", |p| p.name);
            *changes.entry((name.into(), what)).or_default() += n;
        }
        changes
            .into_iter()
            .map(|((who, what), n)| format!("{who} {what} {n}"))
            .collect()
    }

    /// Asserts that exactly these counters changed since the last call.
    #[track_caller]
    pub fn changed(&mut self, expected: &[&str]) {
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        let mut changes = self.changes();
        changes.sort();
        assert_eq!(changes, expected);
    }

    /// Forgets the counters that changed since the last call of [`Self::changes`].
    pub fn discard_changes(&mut self) {
        self.changes();
    }

    /// Raises the generation of the uplink, as after a change of nodes, and publishes.
    pub fn raise_uplink(&mut self) {
        self.generation = self.generation.next();
        let mut uplink = self.tables.current().endpoint(UPLINK.endpoint).unwrap().clone();
        uplink.generation = self.generation;
        self.tables.set_endpoint(uplink);
        self.publish();
    }

    /// Publishes the tables.
    pub fn publish(&mut self) {
        let (snapshot, _) = self.tables.build();
        self.node.publish(snapshot);
    }

    /// Sets a pod's policy (`None`: not ready) with a new generation, and publishes.
    pub fn set_policy(&mut self, pod: &Party, policy: Option<Arc<EndpointPolicy>>) {
        self.generation = self.generation.next();
        let worker = worker_of(pod, self.options.workers);
        self.tables
            .set_endpoint(tables::endpoint(pod, worker, self.generation, policy));
        self.publish();
    }

    /// Returns the number of packets that took the slow path so far.
    pub fn slow(&self) -> u64 {
        self.node.worker_totals().iter().map(|totals| totals.slow_path).sum()
    }

    /// Returns the numbers of packets that were encapsulated and decapsulated so far.
    pub fn tunnelled(&self) -> (u64, u64) {
        let totals = self.node.worker_totals();
        let sum = |of: fn(&heddle_engine::WorkerTotals) -> u64| totals.iter().map(of).sum();
        (sum(|totals| totals.encapsulated), sum(|totals| totals.decapsulated))
    }

    /// Returns the number of connections in the flow table.
    pub fn connections(&self) -> usize {
        self.states().len()
    }

    /// Returns the state of each connection.
    pub fn states(&self) -> Vec<FlowState> {
        let mut states = Vec::new();
        self.node.flows().for_each(|c| states.push(c.views[0].state));
        states
    }

    /// Removes all connections.
    pub fn forget_connections(&self) {
        let flows = self.node.flows();
        flows.for_each(|connection| {
            flows.remove(connection.slot);
        });
    }

    /// Accounts for a frame that the test itself put into a wire.
    pub fn pushed_elsewhere(&mut self, party: &Party, len: usize) {
        *self.pushed.entry(party.port.0).or_default() += len as u64;
    }

    /// Accounts for a frame that the test itself took from a wire.
    pub fn popped_elsewhere(&mut self, party: &Party, len: usize) {
        *self.popped.entry(party.port.0).or_default() += len as u64;
    }

    /// Removes the frames that left, each with its port's number, in the order of the ports and then of their leaving.
    pub fn take_outputs(&mut self) -> Vec<(u16, Vec<u8>)> {
        let outputs = std::mem::take(&mut self.outputs).into_iter();
        outputs
            .flat_map(|(port, frames)| frames.into_iter().map(move |frame| (port, frame)))
            .collect()
    }

    /// Discards the frames that left. They were verified.
    pub fn discard_outputs(&mut self) {
        self.outputs.clear();
    }

    /// Ends the node and asserts that no frame, octet or drop is missing.
    pub fn finish(&mut self) {
        self.collect();
        let rest: usize = self.outputs.values().map(VecDeque::len).sum();
        assert_eq!(rest, 0, "frames that no test looked at: {:?}", self.outputs);
        assert_eq!(self.node.finish(), 0, "frames were lost");
        assert_eq!(self.node.shared().store().outstanding(), 0, "frames were lost");
        for port in 0..PORTS {
            let totals = self.totals(port);
            assert_eq!(
                totals.rx_packets,
                totals.ended(),
                "port {port}: a packet ended twice or never"
            );
            assert_eq!(
                totals.rx_bytes,
                self.pushed.get(&port).copied().unwrap_or(0),
                "port {port}: bytes received"
            );
            assert_eq!(
                totals.tx_bytes,
                self.popped.get(&port).copied().unwrap_or(0),
                "port {port}: bytes sent"
            );
        }
        let dropped: u64 = (0..PORTS)
            .map(|port| self.totals(port).dropped.iter().sum::<u64>())
            .sum();
        let remembered = |h: &WorkerHandle<MemPort>| h.counters().recent().read(0, |_| {}).next;
        assert_eq!(
            self.node.handles().iter().map(remembered).sum::<u64>(),
            dropped,
            "a drop was not remembered, or twice"
        );
    }
}

impl World {
    /// Pushes a frame at a party, asserts that it leaves by the uplink in the tunnel to a node, and returns the inner frame.
    #[track_caller]
    pub fn sent(&mut self, from: &Party, to: &nodes::Other, frame: &[u8]) -> (Vec<u8>, Parsed) {
        let frame = self.leaves(from, frame);
        nodes::opened(&frame, to)
    }

    /// Pushes a frame at a party, asserts that it leaves by the uplink as it is, to a neighbor, and returns it.
    #[track_caller]
    pub fn sent_plain(&mut self, from: &Party, neighbor: MacAddr, frame: &[u8]) -> Vec<u8> {
        let out = self.leaves(from, frame);
        assert_eq!(
            (heddle_wire::ether::destination(&out), heddle_wire::ether::source(&out)),
            (Some(neighbor), Some(UPLINK.mac))
        );
        out
    }

    /// Pushes a frame at a party, asserts that it leaves by the uplink, and returns it as it left.
    #[track_caller]
    fn leaves(&mut self, from: &Party, frame: &[u8]) -> Vec<u8> {
        self.push(from, frame);
        self.step();
        let name = from.name;
        self.changed(&[&format!("{name} rx 1"), &format!("{name} forwarded 1"), "uplink tx 1"]);
        self.pop(&UPLINK)
    }

    /// Pushes an inner frame at the uplink, in the tunnel from a node, asserts that it reaches a party, and returns it.
    #[track_caller]
    pub fn received(&mut self, from: &nodes::Other, to: &Party, inner: &[u8]) -> (Vec<u8>, Parsed) {
        self.pass(&UPLINK, to, &from.encapsulate(inner))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
        }
    }
}

/// Returns the counters that change when one packet goes from one party to another.
fn expected(from: &Party, to: &Party) -> [&'static str; 3] {
    let line = |who: &Party, what: &str| -> &'static str { format!("{} {what} 1", who.name).leak() };
    [line(from, "rx"), line(from, "forwarded"), line(to, "tx")]
}
