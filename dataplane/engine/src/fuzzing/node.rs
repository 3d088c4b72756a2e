//! The fuzzers' node: a node in memory, and the invariants that are asserted of it.

use std::collections::BTreeMap;

use heddle_flow::{Config, Millis};
use heddle_tables::{Direction, EndpointPolicy, SnapshotBuilder};
use heddle_wire::testing::{VerifyError, assert_valid, reassemble, verify};
use heddle_wire::{Ip, checksum, parse};

use super::cluster::{self, PORTS};
use super::others;
use super::parties::{LINKS, PARTIES, UPLINK};
use crate::context::StageConfig;
use crate::counters::PortTotals;
use crate::reassembly::FragmentConfig;
use crate::testing::{Node, NodeBuilder};

/// The key of a datagram that left: port, source, destination, identification, protocol.
type Left = (u16, Ip, Ip, u32, u8);

/// A node whose output is verified.
pub(super) struct CheckedNode {
    node: Node,
    workers: u8,
    tables: SnapshotBuilder,
    generation: u32,
    /// True if a packet with a wrong checksum came in. Such a packet may leave.
    tainted: bool,
    /// The fragments that left.
    fragments: BTreeMap<Left, Vec<Vec<u8>>>,
}

impl CheckedNode {
    pub(super) fn new(workers: u8) -> Self {
        let mut tables = cluster::tables(workers);
        let mut node: Node = NodeBuilder::new()
            .workers(workers)
            .ports(PORTS)
            .lane(32)
            .frames(512)
            .flows(Config {
                capacity: 64,
                quotas: heddle_flow::Quotas {
                    per_pod: Some(40),
                    per_source_prefix: Some(40),
                    node_reserve: 8,
                    ..heddle_flow::Quotas::default()
                },
                seed: Some([0x9e37_79b9_7f4a_7c15; 8]),
                ..Config::default()
            })
            .stages(StageConfig {
                adopt_until: Millis(1_010_000),
                fragments: FragmentConfig {
                    datagrams: 16,
                    held_frames: 24,
                    ..FragmentConfig::default()
                },
                ..StageConfig::default()
            })
            .build(tables.build().0)
            .unwrap();
        for party in &LINKS {
            let worker = cluster::worker_of(party, workers).0;
            node.open(worker, party.port, party.role()).unwrap();
        }
        Self {
            node,
            workers,
            tables,
            generation: 0,
            tainted: false,
            fragments: BTreeMap::new(),
        }
    }

    /// Puts a frame into the port of one of the [`LINKS`].
    pub(super) fn push(&mut self, link: usize, frame: &[u8]) {
        self.tainted |= is_wrong(frame) || others::opened(frame).is_some_and(is_wrong);
        self.node.push(LINKS[link].port, frame);
    }

    /// Lets every worker turn until none has work, and verifies the packets that left.
    pub(super) fn turn(&mut self) {
        self.node.step().unwrap();
        self.collect();
    }

    /// Takes the packets that left, verifies each, and keeps the fragments for [`Self::check_datagrams`]. Of a packet in this node's
    /// tunnel, the inner frame is verified too, and its fragments count.
    fn collect(&mut self) {
        for link in &LINKS {
            while let Some(frame) = self.node.pop(link.port) {
                self.check(&frame);
                // An Ethernet header, and the MTU.
                assert!(
                    link.port != UPLINK.port || frame.len() <= 14 + 1500,
                    "{} octets at the uplink",
                    frame.len()
                );
                let inner = if others::is_own_tunnel(&frame) {
                    let inner = others::opened(&frame).unwrap_or_else(|| panic!("no inner frame: {frame:02x?}"));
                    self.check(inner);
                    inner.to_vec()
                } else {
                    frame
                };
                let p = parse(&inner, inner.len()).unwrap_or_else(|e| panic!("{e} of what left: {inner:02x?}"));
                if p.is_fragment() {
                    let left = (link.port.0, p.src, p.dst, p.fragment_id, p.proto.0);
                    self.fragments.entry(left).or_default().push(inner);
                }
            }
        }
    }

    /// Asserts that a frame that left is valid, except for a transport checksum that may have come in wrong.
    fn check(&self, frame: &[u8]) {
        match verify(frame) {
            Ok(()) => {}
            Err(VerifyError::Checksum { what, .. }) if self.tainted && what != "IPv4 header" => {}
            Err(_) => assert_valid(frame),
        }
    }

    /// Asserts that each datagram in `ids` whose fragments all left is valid. `ids` are the identifications that were sent once,
    /// as a whole and valid datagram.
    pub(super) fn check_datagrams(&mut self, ids: &[u32]) {
        for ((.., id, _), fragments) in std::mem::take(&mut self.fragments) {
            if ids.contains(&id)
                && let Some(whole) = reassemble(&fragments)
            {
                assert_valid(&whole);
            }
        }
    }

    /// Lets `ms` milliseconds pass.
    pub(super) fn wait(&mut self, ms: u64) {
        self.node.wait(ms);
    }

    /// Changes the policy and the MTU of a pod.
    pub(super) fn set_policy(&mut self, party: usize, what: u8) {
        let policy = match what % 4 {
            0 => cluster::isolate(Direction::Ingress, None),
            1 => cluster::isolate(Direction::Ingress, PARTIES.get(1)),
            2 => cluster::isolate(Direction::Egress, PARTIES.get(2)),
            _ => EndpointPolicy::open(),
        };
        let mtu = if what & 4 == 0 { 61_000 } else { 1400 };
        self.generation += 1;
        let endpoint = cluster::endpoint(&PARTIES[party], self.workers, self.generation, mtu, policy);
        self.tables.set_endpoint(endpoint);
        self.publish();
    }

    /// Changes the Service's backends, as [`cluster::serve`] does.
    pub(super) fn serve(&mut self, which: u8) {
        cluster::serve(&mut self.tables, which);
        self.publish();
    }

    /// Changes the way to another node, as [`others::set`] does.
    pub(super) fn set_path(&mut self, node: usize, what: u8) {
        others::set(&mut self.tables, node, what);
        self.generation += 1;
        cluster::raise_uplink(&mut self.tables, self.workers, self.generation);
        self.publish();
    }

    fn publish(&mut self) {
        let (snapshot, _) = self.tables.build();
        self.node.publish(snapshot);
    }

    /// Limits the TX ring of a port to `frames` frames.
    pub(super) fn set_room(&self, link: usize, frames: usize) {
        self.node.wire(LINKS[link].port).unwrap().set_tx_room(frames);
    }

    /// Ends the node and asserts that no frame is missing and that every packet has ended once.
    pub(super) fn finish(mut self) -> PortTotals {
        self.collect();
        // Before the counters are read, because this drops and counts the fragments that are still held.
        assert_eq!(self.node.finish(), 0, "frames were lost");
        let mut all = PortTotals::default();
        for link in &LINKS {
            let totals = self.node.totals(link.port);
            assert_eq!(totals.rx_packets, totals.ended(), "a packet ended twice or never");
            assert_eq!(totals.dropped[crate::DropReason::NoVerdict as usize], 0);
            all += &totals;
        }
        all
    }
}

/// Returns true if a frame has a wrong checksum that is not an unfinished one.
fn is_wrong(frame: &[u8]) -> bool {
    parse(frame, frame.len()).is_ok_and(|p| !checksum::verify(&p, [frame]) && !checksum::is_partial(frame, &p))
}
