//! A whole worker in memory: receive, stages, dispatch, transmit, counters and expiry, between ports that cost almost nothing.
//!
//! A stand-in port writes each packet's headers into a frame, as the kernel does by copy, and frees sent packets.
//! [`Turn::stand_in`] runs the port's part alone, so that its cost can be told from the worker's.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heddle_engine::testing::{Node, NodeBuilder, NodeError};
use heddle_engine::{PortRole, PortTotals};
use heddle_port::{Capabilities, Frame, FrameStore, Packet, PacketVec, Port, PortId, PortStats, WorkerPool};
use heddle_tables::{EndpointId, WorkerId};

use super::{Burst, Client, ConnectionSequence, Connections, FRAME_SIZE, Load, PODS, ROTATION};
use crate::BenchError;
use crate::node::{Pod, Side};

/// A port that receives a burst if it is the active client's, and frees the packets that it sends.
struct StandInPort {
    number: PortId,
    /// The client that has a burst in this turn.
    active: Arc<AtomicUsize>,
    /// The client of this port.
    place: usize,
    store: Arc<FrameStore>,
    /// The client and the sequence of its connections; `None` for a server.
    source: Option<(Client, ConnectionSequence)>,
    burst: usize,
    step: u32,
    stats: PortStats,
}

impl StandInPort {
    fn frame(&mut self, mut frame: Frame, len: usize) -> Packet {
        self.store.set_range(&mut frame, heddle_port::HEADROOM, len as u32);
        if let Some((client, sequence)) = &mut self.source {
            let n = sequence.next(self.step);
            client.write(self.store.bytes_mut(&mut frame), n);
            self.step += 1;
        }
        Packet::new(&self.store, frame)
    }
}

impl Port for StandInPort {
    fn id(&self) -> PortId {
        self.number
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::VETH
    }

    fn rx(&mut self, pool: &mut WorkerPool, out: &mut PacketVec) -> usize {
        let Some(len) = self.source.as_ref().map(|(client, _)| client.len()) else {
            return 0;
        };
        if self.active.load(Ordering::Relaxed) != self.place {
            return 0;
        }
        for _ in 0..self.burst {
            let Some(frame) = pool.alloc() else { break };
            out.push(self.frame(frame, len));
        }
        self.stats.rx_packets += out.len() as u64;
        out.len()
    }

    fn tx(&mut self, pool: &mut WorkerPool, packets: &mut PacketVec) {
        self.stats.tx_packets += packets.len() as u64;
        for packet in packets.drain(..) {
            pool.free_packet(packet);
        }
    }

    fn flush(&mut self, _pool: &mut WorkerPool) {}

    fn unsent(&self) -> bool {
        false
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

/// A worker with all ports of the node. In each turn one client's port has a burst.
pub struct Turn {
    node: Node<StandInPort>,
    alone: StandInPort,
    pool: WorkerPool,
    packets: PacketVec,
    burst: usize,
    active: Arc<AtomicUsize>,
    turns: usize,
}

impl Turn {
    /// Makes the node and a worker with established connections.
    ///
    /// # Errors
    /// The load is out of range, or a packet is not forwarded.
    pub fn new(load: Load) -> Result<Self, BenchError> {
        if let Connections::New(capacity) = load.connections {
            let (what, value) = ("new connections", u64::from(capacity));
            return Err(BenchError::BadValue {
                what,
                value,
                rule: "a turn is measured with established ones",
            });
        }
        let Burst {
            clients,
            snapshot,
            flows,
            now,
            ..
        } = Burst::new(load)?;
        let ports = PODS.0 + PODS.1 + 1;
        let mut node = NodeBuilder::new()
            .ports(ports)
            .lane(64)
            .frames(2 * ROTATION)
            .frame_size(FRAME_SIZE)
            .now(now)
            .build_over(snapshot, Arc::new(flows))
            .map_err(|error| unexpected(&error))?;
        let pool = WorkerPool::new(WorkerId(1), node.shared().clone());
        let store = Arc::clone(pool.store_arc());
        let active = Arc::new(AtomicUsize::new(usize::MAX));
        let port = |number, place, source| StandInPort {
            number,
            active: Arc::clone(&active),
            place,
            store: Arc::clone(&store),
            source,
            burst: load.burst,
            step: 0,
            stats: PortStats::default(),
        };
        let mut add = |port: StandInPort, endpoint: EndpointId| {
            node.add(0, port, PortRole::Pod(endpoint))
                .map_err(|error| unexpected(&error))
        };
        for server in Pod::all(PODS.0, PODS.1).iter().filter(|pod| pod.side == Side::Server) {
            add(port(server.port, usize::MAX, None), server.endpoint)?;
        }
        let twin = clients
            .first()
            .cloned()
            .map(|client| (client, ConnectionSequence::new(&load)));
        let mut alone = port(PortId(0), 0, twin);
        alone.active = Arc::new(AtomicUsize::new(0));
        for (place, client) in clients.into_iter().enumerate() {
            let Pod {
                port: number, endpoint, ..
            } = client.pod;
            add(
                port(number, place, Some((client, ConnectionSequence::new(&load)))),
                endpoint,
            )?;
        }
        Ok(Self {
            node,
            alone,
            pool,
            packets: PacketVec::new(),
            burst: load.burst,
            active,
            turns: 0,
        })
    }

    /// Runs one turn with one burst. This is the measured part.
    #[inline]
    pub fn turn(&mut self) {
        self.active.store(self.turns % usize::from(PODS.0), Ordering::Relaxed);
        self.turns = self.turns.wrapping_add(1);
        self.node.turn(0);
    }

    /// Runs the stand-in port's part of a turn, without a worker.
    #[inline]
    pub fn stand_in(&mut self) {
        self.alone.rx(&mut self.pool, &mut self.packets);
        self.alone.tx(&mut self.pool, &mut self.packets);
    }

    /// Returns the packets of a burst.
    #[must_use]
    pub const fn burst(&self) -> usize {
        self.burst
    }

    /// Checks that every packet so far was forwarded.
    ///
    /// # Errors
    /// A packet was not forwarded.
    pub fn check(&self) -> Result<(), BenchError> {
        let mut sum = PortTotals::default();
        for port in 0..=PODS.0 + PODS.1 {
            sum += &self.node.totals(PortId(port));
        }
        if sum.rx_packets == sum.forwarded {
            return Ok(());
        }
        Err(BenchError::Unexpected {
            what: "packets of the worker".to_owned(),
            expected: format!("{} forwarded", sum.rx_packets),
            got: format!(
                "{} forwarded, drops {:?}",
                sum.forwarded,
                sum.drops().collect::<Vec<_>>()
            ),
        })
    }
}

fn unexpected(got: &NodeError) -> BenchError {
    BenchError::Unexpected {
        what: "a worker in memory".to_owned(),
        expected: "it can be made".to_owned(),
        got: got.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_forwards_a_burst() {
        let mut turn = Turn::new(Load::new(Connections::Established(1000))).unwrap();
        for _ in 0..10 {
            turn.turn();
            turn.stand_in();
        }
        turn.check().unwrap();
        let received: Vec<u64> = (1..12).map(|n| turn.node.totals(PortId(n)).rx_packets).collect();
        assert_eq!(received, [64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 0]);
    }
}
