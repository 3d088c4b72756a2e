//! The pipeline in memory: bursts of prepared frames, without rings and system calls.
//!
//! [`Burst`] runs `process` alone. [`turn::Turn`] runs a whole worker with stand-in ports that cost as little as possible. Both send
//! the same packets: UDP from pods through Services. For [`Connections::Established`] each packet is a flow hit, a check of
//! both endpoints' generations, and a rewrite of destination address and port. For [`Connections::New`] it is a policy
//! decision, a choice of backend, and an insert of both directions.
//!
//! `Burst` drives the stages itself, because a node of `heddle_engine::testing` always has a worker around them.

mod tunnel;
pub mod turn;

use std::collections::VecDeque;
use std::sync::Arc;

use heddle_engine::{Batch, FragmentConfig, Ingress, PortRole, StageConfig, Stages, Tables, Verdict, process};
use heddle_flow::{Config, FlowTable, Millis};
use heddle_port::{BURST, Capabilities, FrameStore, Packet, SharedPool, WorkerId, WorkerPool};
use heddle_tables::Snapshot;
use heddle_wire::MacAddr;

use crate::BenchError;
use crate::frames::{self, Checksum, Ends};
use crate::node::{self, Pod, Side};

pub use tunnel::Way;

/// The number of pods that open connections, and of pods that accept them.
pub const PODS: (u16, u16) = (16, 16);
/// The default number of Services that the connections go through.
pub const SERVICES: u16 = 16;
/// The first source port.
const FIRST_PORT: u16 = 1024;
/// The bytes of a frame of packet memory.
pub const FRAME_SIZE: u32 = 4096;
/// The number of frames that packets use in turn: as many as a busy port has in its fill ring.
pub const ROTATION: u32 = 512;
/// The capacity of the flow table in the default configuration.
const LEAST_CAPACITY: u32 = 262_144;

/// The connections of the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connections {
    /// This number of established connections, chosen at random for each packet.
    Established(u32),
    /// New connections. When a table of this capacity is three quarters full, all of them expire.
    New(u32),
}

/// The packets of a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// The connections.
    pub connections: Connections,
    /// The number of Services that the connections go through, with four backends each.
    pub services: u16,
    /// The packets of a burst, at most [`BURST`].
    pub burst: usize,
    /// The octets of a frame, without FCS.
    pub frame: usize,
    /// The state of the UDP checksum.
    pub checksum: Checksum,
    /// The way of the packets.
    pub way: Way,
}

impl Load {
    /// Returns a load of 64-octet frames in bursts of 64, with finished checksums.
    #[must_use]
    pub const fn new(connections: Connections) -> Self {
        Self {
            connections,
            services: SERVICES,
            burst: BURST,
            frame: 64,
            checksum: Checksum::Finished,
            way: Way::Local,
        }
    }

    fn check(&self) -> Result<(), BenchError> {
        let bad = |what, value: usize, rule| {
            Err(BenchError::BadValue {
                what,
                value: value as u64,
                rule,
            })
        };
        let (Connections::Established(flows) | Connections::New(flows)) = self.connections;
        if flows < u32::from(PODS.0) || flows > u32::from(PODS.0) * 60_000 + 65_536 {
            return bad("flows", flows as usize, "between 16 and 1025536");
        }
        if !(1..=30_000).contains(&self.services) {
            return bad("services", self.services.into(), "between 1 and 30000");
        }
        if !(1..=BURST).contains(&self.burst) {
            return bad("burst", self.burst, "between 1 and 64");
        }
        if self.way == Way::Decapsulated && !matches!(self.connections, Connections::Established(_)) {
            return bad("new connections", 0, "established ones, for answers");
        }
        if !(frames::MIN_FRAME..=1514).contains(&self.frame) {
            return bad("frame", self.frame, "between 44 and 1514 octets");
        }
        Ok(())
    }

    /// Returns the number of connections of each client.
    const fn connections_per_client(&self) -> u32 {
        match self.connections {
            Connections::Established(flows) => flows / PODS.0 as u32,
            Connections::New(capacity) => capacity / PODS.0 as u32 * 3 / 4,
        }
    }

    fn table(&self) -> FlowTable {
        let capacity = match self.connections {
            Connections::Established(flows) => flows.next_power_of_two().max(LEAST_CAPACITY),
            Connections::New(capacity) => capacity,
        };
        FlowTable::anonymous(&Config {
            capacity,
            quotas: heddle_flow::Quotas::default(),
            seed: Some([0x9e37_79b9; 8]),
            ..Config::default()
        })
    }
}

/// The frames of one client: a template for each Service.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) pod: Pod,
    templates: Vec<Vec<u8>>,
}

impl Client {
    fn new(pod: Pod, load: &Load) -> Self {
        let ends = |n| Ends {
            macs: (pod.mac, MacAddr::GATEWAY),
            ips: (pod.ip, node::service_ip(n)),
            ports: (FIRST_PORT, node::SERVICE_PORT),
        };
        let templates = (0..load.services)
            .map(|n| frames::udp(&ends(n), load.frame, load.checksum))
            .collect();
        Self { pod, templates }
    }

    /// Returns the octets of a frame.
    pub(crate) fn len(&self) -> usize {
        self.templates.first().map_or(0, Vec::len)
    }

    /// Writes a packet of the client's connection `n` into `frame`.
    #[inline]
    pub(crate) fn write(&self, frame: &mut [u8], n: u32) {
        // The stride sends consecutive connections through Services that are far from each other in memory.
        let service = n as usize * 40_503 % self.templates.len();
        if let Some(template) = self.templates.get(service) {
            frames::copy_frame(frame, template);
        }
        frames::set_source_port(frame, FIRST_PORT.wrapping_add(n as u16));
    }
}

/// Returns the clients of a load, and the tables of their node.
fn scene(load: &Load) -> (Vec<Client>, Arc<Snapshot>) {
    let pods = Pod::all(PODS.0, PODS.1);
    let other = match load.way {
        Way::Local => None,
        Way::Encapsulated | Way::Decapsulated => tunnel::other_node(),
    };
    let snapshot = node::tables(&pods, load.services, 1500, other);
    let clients = pods
        .into_iter()
        .filter(|pod| pod.side == Side::Client)
        .map(|pod| Client::new(pod, load))
        .collect();
    (clients, snapshot)
}

/// The order of the connections: round robin, or pseudo-random.
#[derive(Debug)]
pub(crate) struct ConnectionSequence {
    each: u32,
    random: bool,
    state: u64,
}

impl ConnectionSequence {
    fn new(load: &Load) -> Self {
        let random = matches!(load.connections, Connections::Established(_));
        Self {
            each: load.connections_per_client(),
            random,
            state: 0x2545_f491_4f6c_dd1d,
        }
    }

    /// Returns the client's connection for the next packet. `step` is the number of packets of each client so far.
    #[inline]
    pub(crate) fn next(&mut self, step: u32) -> u32 {
        if !self.random {
            return step % self.each;
        }
        // Marsaglia's xorshift, scaled to the number of connections.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (((self.state >> 32) * u64::from(self.each)) >> 32) as u32
    }
}

/// A worker's stages, with the next burst.
pub struct Burst {
    load: Load,
    clients: Vec<Client>,
    snapshot: Arc<Snapshot>,
    flows: FlowTable,
    stages: Stages,
    batch: Batch,
    pool: WorkerPool,
    store: Arc<FrameStore>,
    waiting: VecDeque<Packet>,
    sequence: ConnectionSequence,
    now: Millis,
    /// The number of bursts so far.
    bursts: u32,
    /// True once the packets are answers that come by the tunnel.
    receives: bool,
    /// The answers that each client gets by the tunnel, one for each connection.
    answers: Vec<Vec<Vec<u8>>>,
}

impl Burst {
    /// Makes the node and opens all connections by packets.
    ///
    /// # Errors
    /// The load is out of range, or a packet is not forwarded.
    pub fn new(load: Load) -> Result<Self, BenchError> {
        load.check()?;
        let (clients, snapshot) = scene(&load);
        let shared = SharedPool::heap(2 * ROTATION, FRAME_SIZE);
        let mut pool = WorkerPool::new(WorkerId(0), shared);
        let waiting = (0..ROTATION)
            .filter_map(|_| pool.packet(&vec![0; load.frame]))
            .collect();
        let mut made = Self {
            load,
            clients,
            snapshot,
            flows: load.table(),
            stages: Stages::new(StageConfig::default(), 16),
            batch: Batch::new(&FragmentConfig::default()),
            store: Arc::clone(pool.store_arc()),
            pool,
            waiting,
            sequence: ConnectionSequence {
                random: false,
                ..ConnectionSequence::new(&load)
            },
            now: Millis(1_000_000),
            bursts: 0,
            receives: false,
            answers: vec![Vec::new(); PODS.0.into()],
        };
        made.open_all()?;
        made.receives = load.way == Way::Decapsulated;
        made.sequence = ConnectionSequence::new(&load);
        if matches!(load.connections, Connections::New(_)) {
            made.expire_all();
        }
        Ok(made)
    }

    fn open_all(&mut self) -> Result<(), BenchError> {
        let packets = self.load.connections_per_client().div_ceil(self.load.burst as u32);
        for _ in 0..packets * self.clients.len() as u32 {
            self.prepare();
            self.process();
            self.finish_burst()?;
        }
        Ok(())
    }

    /// Moves the clock on until every connection has expired, and removes them all.
    fn expire_all(&mut self) {
        self.now = self.now.plus(24 * 3600 * 1000);
        self.flows.expire(self.now, u32::MAX);
        self.bursts = 0;
    }

    /// Writes the next burst, as the kernel or a NIC would. When the table is three quarters full of new connections, they
    /// expire here, outside of the measured time.
    pub fn prepare(&mut self) {
        let clients = self.clients.len() as u32;
        let mut step = self.bursts / clients * self.load.burst as u32;
        if step >= self.load.connections_per_client()
            && !self.sequence.random
            && matches!(self.load.connections, Connections::New(_))
        {
            self.expire_all();
            step = 0;
        }
        let number = (self.bursts % clients) as usize;
        let (Some(client), Some(answers)) = (self.clients.get(number), self.answers.get(number)) else {
            return;
        };
        for _ in 0..self.load.burst {
            let Some(mut packet) = self.waiting.pop_front() else {
                break;
            };
            let connection = self.sequence.next(step);
            match answers.get(connection as usize).filter(|_| self.receives) {
                Some(answer) => {
                    packet.set_head_range(&self.store, Capabilities::NIC.headroom, answer.len() as u32);
                    frames::copy_frame(packet.bytes_mut(&self.store), answer);
                }
                None => client.write(packet.bytes_mut(&self.store), connection),
            }
            step += 1;
            self.batch.packets_mut().push(packet);
        }
    }

    /// Runs the stages over the burst. This is the measured part.
    #[inline]
    pub fn process(&mut self) {
        let Some(client) = self.clients.get(self.bursts as usize % self.clients.len()) else {
            return;
        };
        let ingress = match self.receives {
            true => Ingress::new(node::UPLINK_PORT, PortRole::Uplink, Capabilities::NIC),
            false => Ingress::new(client.pod.port, PortRole::Pod(client.pod.endpoint), Capabilities::VETH),
        };
        let tables = Tables {
            snapshot: &self.snapshot,
            flows: &self.flows,
        };
        process(
            &mut self.stages,
            &mut self.batch,
            ingress,
            tables,
            &mut self.pool,
            self.now,
        );
    }

    /// Removes the burst and checks that every packet was forwarded.
    ///
    /// # Errors
    /// A packet was not forwarded, so the measured time has no meaning.
    pub fn finish_burst(&mut self) -> Result<(), BenchError> {
        let mut other = None;
        let number = self.bursts as usize % self.clients.len();
        let opens = self.load.way == Way::Decapsulated && !self.receives;
        for (mut packet, verdict) in self.batch.drain() {
            if !matches!(verdict, Verdict::Forward(_)) {
                other = Some(verdict);
            }
            if opens
                && let Some(answers) = self.answers.get_mut(number)
                && answers.len() < self.load.connections_per_client() as usize
            {
                answers.extend(tunnel::answer(packet.bytes(&self.store), self.load.frame));
            }
            if self.load.way != Way::Local {
                packet.set_head_range(&self.store, Capabilities::VETH.headroom, self.load.frame as u32);
            }
            self.waiting.push_back(packet);
        }
        self.bursts = self.bursts.wrapping_add(1);
        match other {
            None => Ok(()),
            Some(verdict) => Err(BenchError::Unexpected {
                what: format!("a packet of {:?}", self.load.connections),
                expected: "it is forwarded".to_owned(),
                got: format!("{verdict:?}"),
            }),
        }
    }

    /// Returns the packets of a burst.
    #[must_use]
    pub const fn burst(&self) -> usize {
        self.load.burst
    }

    /// Returns the number of connections in the table.
    #[must_use]
    pub fn connections(&self) -> u64 {
        let mut count = 0;
        self.flows.for_each(|_| count += 1);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_wire::{checksum, parse};

    #[test]
    fn packets_are_translated_and_keep_correct_checksums() {
        for sum in [Checksum::Finished, Checksum::Partial] {
            let load = Load {
                checksum: sum,
                ..Load::new(Connections::Established(1000))
            };
            let mut burst = Burst::new(load).unwrap();
            assert_eq!(burst.connections(), 992);
            burst.prepare();
            burst.process();
            for packet in burst.batch.packets() {
                let bytes = packet.bytes(&burst.store);
                let p = parse(bytes, bytes.len()).unwrap();
                assert!((8000..8016).contains(&p.dport), "{p:?}");
                assert_eq!(p.ttl, 63);
                assert!(checksum::verify(&p, [bytes]));
            }
            burst.finish_burst().unwrap();
            assert_eq!(burst.connections(), 992);
        }
    }

    #[test]
    fn packets_leave_by_the_tunnel_and_answers_come_by_it() {
        for way in [Way::Encapsulated, Way::Decapsulated] {
            let load = Load {
                way,
                ..Load::new(Connections::Established(1000))
            };
            let mut burst = Burst::new(load).unwrap();
            for _ in 0..40 {
                burst.prepare();
                burst.process();
                for packet in burst.batch.packets() {
                    let bytes = packet.bytes(&burst.store);
                    let p = parse(bytes, bytes.len()).unwrap();
                    assert!(checksum::verify(&p, [bytes]));
                    match way {
                        Way::Decapsulated => {
                            // The client sees the Service.
                            assert_eq!((bytes.len(), p.sport), (64, node::SERVICE_PORT));
                        }
                        _ => {
                            assert_eq!((bytes.len(), p.dport), (64 + tunnel::OVERHEAD, node::NETWORK.port));
                            let inner = &bytes[tunnel::OVERHEAD..];
                            let p = parse(inner, inner.len()).unwrap();
                            assert!((8000..8016).contains(&p.dport) && checksum::verify(&p, [inner]));
                        }
                    }
                }
                burst.finish_burst().unwrap();
            }
            assert_eq!(burst.connections(), 992, "no answer opens a connection");
        }
    }

    #[test]
    fn new_connections_are_still_forwarded_after_the_table_was_full() {
        let mut burst = Burst::new(Load::new(Connections::New(4096))).unwrap();
        assert_eq!(burst.connections(), 0);
        for _ in 0..200 {
            burst.prepare();
            burst.process();
            burst.finish_burst().unwrap();
        }
        assert!(burst.connections() > 0);
    }

    #[test]
    fn loads_out_of_range_are_refused_by_name() {
        let load = Load::new(Connections::Established(1000));
        for (load, says) in [
            (Load { burst: 65, ..load }, "burst = 65"),
            (Load { frame: 20, ..load }, "frame = 20"),
            (
                Load {
                    connections: Connections::Established(3),
                    ..load
                },
                "flows = 3",
            ),
        ] {
            let error = Burst::new(load).err().unwrap().to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
