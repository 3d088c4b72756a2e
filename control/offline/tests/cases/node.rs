//! A node in memory: the pipeline with the tables that its agent would have published, packet by packet. etherparse verifies
//! every frame that leaves, and no frame may be lost.
//!
//! It calls `process` directly, because each packet has its own tables and its verdict is compared. A node of
//! `heddle_engine::testing` would add workers and counters.

use heddle_engine::{
    AnswerKind, Batch, DropReason, FragmentConfig, Ingress, PortRole, StageConfig, Stages, Tables, Verdict, process,
};
use heddle_flow::{Config, Egress, FlowTable, Millis};
use heddle_port::{Capabilities, PortId, SharedPool, WorkerId, WorkerPool};
use heddle_tables::{EndpointId, Snapshot};
use heddle_wire::testing::assert_valid;

const FRAMES: u32 = 64;
/// A fixed seed, so that failures are reproducible. The numbers are arbitrary.
const SEED: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xb2fb_1366_ea95_7d3e,
    0x3adc_1751_2775_6f14,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
    0xb5c0_fbcf_ec4d_3b2f,
];

/// The outcome of a packet.
pub enum Ended {
    /// It left by that egress.
    Sent(Egress, Vec<u8>),
    /// Heddle answered it itself.
    Answered(AnswerKind, Vec<u8>),
    /// It was dropped.
    Dropped(DropReason),
}

/// A node with its pipeline and flow table.
pub struct Node {
    shared: SharedPool,
    pool: WorkerPool,
    flows: FlowTable,
    stages: Stages,
    batch: Batch,
    now: Millis,
}

impl Node {
    pub fn new() -> Self {
        let shared = SharedPool::heap(FRAMES, 4096);
        Self {
            pool: WorkerPool::new(WorkerId(0), shared.clone()),
            shared,
            flows: FlowTable::anonymous(&Config {
                capacity: 8192,
                quotas: heddle_flow::Quotas::default(),
                affinities: 256,
                seed: Some(SEED),
                ..Config::default()
            }),
            stages: Stages::new(
                StageConfig {
                    seed: 1,
                    ..StageConfig::default()
                },
                64,
            ),
            batch: Batch::new(&FragmentConfig::default()),
            now: Millis(1_000_000),
        }
    }

    /// Receives a packet at the port of an endpoint, the uplink's included, and processes it.
    pub fn receive(&mut self, snapshot: &Snapshot, at: EndpointId, frame: &[u8]) -> Ended {
        let role = match at {
            EndpointId::HOST => PortRole::Host,
            EndpointId::UPLINK => PortRole::Uplink,
            pod => PortRole::Pod(pod),
        };
        let ingress = Ingress::new(PortId(at.0), role, Capabilities::VETH);
        self.now = Millis(self.now.0 + 1);
        self.stages.begin_turn(&mut self.batch, self.now);
        let packet = self.pool.packet(frame).expect("frames enough for one packet");
        self.batch.packets_mut().push(packet);
        let tables = Tables {
            snapshot,
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
        let (packet, verdict) = self.batch.drain().next().expect("a verdict on the packet");
        let bytes = packet.to_vec(self.pool.store());
        self.pool.free_packet(packet);
        if matches!(verdict, Verdict::Forward(_) | Verdict::Answer(_)) {
            assert_valid(&bytes);
        }
        match verdict {
            Verdict::Forward(egress) => Ended::Sent(egress, bytes),
            Verdict::Answer(kind) => Ended::Answered(kind, bytes),
            Verdict::Drop(denial) => Ended::Dropped(denial.reason),
            Verdict::Segment { size, .. } => panic!("the first packet of a connection is cut into segments of {size}"),
            Verdict::Fragment { mtu, .. } => panic!("the first packet of a connection is larger than {mtu}"),
            Verdict::Absorb(reason) => panic!("the first packet of a connection is absorbed: {reason}"),
        }
    }

    /// Removes all connections.
    pub fn remove_connections(&mut self) {
        let mut all = Vec::new();
        self.flows.for_each(|connection| all.push(connection.slot));
        for slot in all {
            self.flows.remove(slot);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.pool.drain();
        if !std::thread::panicking() {
            assert_eq!(self.shared.free(), FRAMES, "frames were lost");
        }
    }
}
