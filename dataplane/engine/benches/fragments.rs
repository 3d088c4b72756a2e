//! The cost of fragments that find their share or the table full: nanoseconds a packet in `process`, without rings.
//!
//! `cargo bench -p heddle-engine --bench fragments` runs all cases. Each case fills the table of datagrams, and then sends
//! bursts of fragments of new datagrams, so that each one takes the room of another one. The bursts are timed one by one; the
//! output has the tenth percentile and the median.

#![allow(clippy::print_stdout, reason = "a bench prints its result")]
#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to say")]

use std::sync::Arc;
use std::time::Instant;

use heddle_engine::{Batch, FragmentConfig, Ingress, PortRole, StageConfig, Stages, Tables, process};
use heddle_flow::{Config, FlowTable, Millis};
use heddle_port::{BURST, Capabilities, PortId, SharedPool, WorkerId, WorkerPool};
use heddle_tables::{
    AddressInfo, Endpoint, EndpointId, EndpointPolicy, Generation, IdentityId, Place, Snapshot, SnapshotBuilder,
};
use heddle_wire::testing::{Packet, ip, mac};
use heddle_wire::{Ip, MacAddr, Proto};

const PORTS: u16 = 1088;
const BURSTS: usize = 4000;

fn address(pod: u16) -> Ip {
    ip(&format!("10.0.{}.{}", pod >> 8, pod & 255))
}

fn endpoint(pod: u16) -> EndpointId {
    EndpointId(pod + 1)
}

/// A node with this number of pods. The fragments go to pod 1.
struct Node {
    snapshot: Arc<Snapshot>,
    flows: FlowTable,
    stages: Stages,
    batch: Batch,
    pool: WorkerPool,
    identification: u32,
}

impl Node {
    fn new(pods: u16) -> Self {
        let mut tables = SnapshotBuilder::new();
        for pod in 1..=pods {
            tables.set_endpoint(Endpoint {
                id: endpoint(pod),
                generation: Generation(0),
                addresses: [address(pod)].into_iter().collect(),
                mac: mac(1),
                port: PortId(pod),
                worker: heddle_tables::WorkerId(0),
                mtu: 61_000,
                name: "pod".into(),
                policy: Some(Arc::new(EndpointPolicy::open())),
            });
            let info = AddressInfo {
                identity: IdentityId(u32::from(pod) + 1),
                place: Place::Local(endpoint(pod)),
            };
            tables.set_address(address(pod), info);
        }
        Self {
            snapshot: tables.build().0,
            flows: FlowTable::anonymous(&Config {
                capacity: 4096,
                ..Config::default()
            }),
            stages: Stages::new(StageConfig::default(), PORTS),
            batch: Batch::new(&FragmentConfig::default()),
            pool: WorkerPool::new(WorkerId(0), SharedPool::heap(4096, 2048)),
            identification: 0,
        }
    }

    /// Sends a burst of fragments of as many datagrams from a pod, and returns the nanoseconds that `process` took.
    fn burst(&mut self, pod: u16, packets: usize, offset: u16) -> u64 {
        for _ in 0..packets {
            self.identification += 1;
            let frame = Packet::new(mac(1), MacAddr::GATEWAY, address(pod), address(1))
                .identification(self.identification)
                .fragment(offset, true)
                .raw(Proto::UDP, &[0, 9, 0, 9, 0, 99, 0, 0].repeat(8));
            let packet = self.pool.packet(&frame).expect("there are frames");
            self.batch.packets_mut().push(packet);
        }
        let ingress = Ingress::new(PortId(pod), PortRole::Pod(endpoint(pod)), Capabilities::VETH);
        let tables = Tables {
            snapshot: &self.snapshot,
            flows: &self.flows,
        };
        let start = Instant::now();
        process(
            &mut self.stages,
            &mut self.batch,
            ingress,
            tables,
            &mut self.pool,
            Millis(1_000_000),
        );
        let took = start.elapsed().as_nanos() as u64;
        for (packet, _) in self.batch.drain() {
            self.pool.free_packet(packet);
        }
        took
    }

    /// Times bursts of the pods in turn and prints the result.
    fn time(&mut self, name: &str, senders: &[u16], offset: u16) {
        let mut times: Vec<u64> = (0..BURSTS)
            .map(|n| self.burst(senders.get(n % senders.len()).copied().unwrap_or(2), BURST, offset))
            .collect();
        times.sort_unstable();
        let at = |tenths: usize| times.get(BURSTS * tenths / 10).copied().unwrap_or(0) as f64 / BURST as f64;
        println!("{name:<70} {:>8.1} {:>8.1}", at(1), at(5));
    }
}

fn main() {
    println!("{:<70} {:>8} {:>8}", "nanoseconds a packet", "p10", "median");
    for (what, offset) in [("first fragments", 0), ("later fragments without their first", 64)] {
        // Three pods have their shares, 256 datagrams each. The fourth one is at its limit too.
        let mut node = Node::new(8);
        for pod in [2, 3, 4, 5] {
            for _ in 0..256 / BURST {
                node.burst(pod, BURST, offset);
            }
        }
        node.time(&format!("{what}, the sender is at its limit"), &[5], offset);
        // The table is full, and no sender is at its limit.
        let mut node = Node::new(300);
        for pod in 2..=257 {
            node.burst(pod, 4, offset);
        }
        let senders: Vec<u16> = (258..298).collect();
        node.time(&format!("{what}, the table is full"), &senders, offset);
    }
}
