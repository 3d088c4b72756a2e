//! A worker: the rings of its ports, its hand-over lanes, and the turn that moves packets between them.
//!
//! Packets are [`process`]'s. Here they are received, sent by the port that their verdict names, handed over to the worker
//! that owns it, or freed; every one is counted where it came in. One turn serves every port once.

mod dispatch;
mod idle;
mod port_table;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use heddle_flow::{FlowTable, Millis};
use heddle_port::{BURST, Port, PortId, WorkerPool};
use heddle_tables::publish::Reader;
use heddle_tables::{Snapshot, WorkerId};

use crate::batch::{Batch, ParsedPackets};
use crate::context::{StageConfig, Stages};
use crate::control::{AddError, Message, WorkerHandle};
use crate::counters::WorkerCounters;
use crate::decide::Denial;
use crate::handover::{Ends, HandoverItem, Inbox, Outbox};
use crate::ingress::{Ingress, PortRole};
use crate::process::{Tables, process};
use crate::reason::DropReason;
use dispatch::{Dispatcher, discard, forwarded};
use port_table::PortTable;

/// The configuration of a worker.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// Its number.
    pub id: WorkerId,
    /// Port numbers that it knows of: 0 up to this, its own and others'.
    pub ports: u16,
    /// The configuration of its stages.
    pub stages: StageConfig,
    /// How long it polls without work before it sleeps; `Duration::MAX`: never.
    pub idle_after: Duration,
    /// How long it sleeps at a time, so that flows expire on an idle node too.
    pub sleep_at_most: Duration,
    /// Flow records that it looks at in one turn for expired ones.
    pub expire_per_turn: u32,
}

impl WorkerConfig {
    /// The defaults for worker `id`.
    #[must_use]
    pub fn new(id: WorkerId, ports: u16) -> Self {
        Self {
            id,
            ports,
            stages: StageConfig::default(),
            idle_after: Duration::from_millis(2),
            sleep_at_most: Duration::from_secs(1),
            expire_per_turn: 8,
        }
    }
}

/// The work of one turn.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TurnStats {
    /// Packets received by its ports.
    pub received: usize,
    /// Packets taken from other workers.
    pub taken_over: usize,
    /// Control asked for something.
    pub messages: usize,
}

impl TurnStats {
    /// Returns true if there was anything to do.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.received + self.taken_over + self.messages > 0
    }
}

/// A worker. It belongs to one thread at a time; tests step several on one.
pub struct Worker<P> {
    config: WorkerConfig,
    pool: WorkerPool,
    reader: Reader<Snapshot>,
    flows: Arc<FlowTable>,
    inbox: Inbox,
    outbox: Outbox,
    messages: Receiver<Message<P>>,
    ports: PortTable<P>,
    stages: Stages,
    batch: Box<Batch>,
    counters: Arc<WorkerCounters>,
    stopped: bool,
}

impl<P: Port> Worker<P> {
    /// A worker without ports, and the handle by which control gives it some.
    #[must_use]
    pub fn new(
        config: WorkerConfig,
        pool: WorkerPool,
        reader: Reader<Snapshot>,
        flows: Arc<FlowTable>,
        ends: Ends,
    ) -> (Self, WorkerHandle<P>) {
        let counters = WorkerCounters::new(config.ports);
        let (handle, messages) = WorkerHandle::new(config.id, ends.inbox.waker(), Arc::clone(&counters));
        let worker = Self {
            pool,
            reader,
            flows,
            inbox: ends.inbox,
            outbox: ends.outbox,
            messages,
            ports: PortTable::new(usize::from(config.ports)),
            stages: Stages::new(config.stages),
            batch: Box::new(Batch::new(&config.stages.fragments)),
            counters,
            stopped: false,
            config,
        };
        (worker, handle)
    }

    /// Serves every port, every lane and control once.
    pub fn turn(&mut self, now: Millis) -> TurnStats {
        self.counters.now.set(now.0);
        self.stages.begin_turn(&mut self.batch, now);
        self.dispatch_reentered();
        // Before control's messages: what waits for a port that is to be removed still leaves by it.
        let taken_over = self.take_over();
        let messages = self.read_messages();
        let mut received = 0;
        for at in 0..self.ports.len() {
            received += self.burst(at, now);
        }
        if received == 0 {
            // A burst takes new tables before its first packet. Who waits for nothing but them waits for no packet.
            self.reader.refresh();
        }
        for slot in self.ports.slots_mut() {
            slot.send(&mut self.pool, &self.counters);
            slot.port.flush(&mut self.pool);
        }
        self.outbox.wake();
        let expired = self.flows.expire(now, self.config.expire_per_turn);
        let stats = TurnStats {
            received,
            taken_over,
            messages,
        };
        self.count(&stats, expired);
        stats
    }

    fn count(&mut self, stats: &TurnStats, expired: u32) {
        let c = &self.counters;
        c.turns.add(1);
        if stats.is_busy() {
            c.busy_turns.add(1);
            c.slow_path.add(std::mem::take(&mut self.stages.slow));
        }
        if expired > 0 {
            c.expired.add(u64::from(expired));
        }
        if let Some(fragments) = self.stages.fragments() {
            c.fragments.set(&fragments);
        }
    }

    /// Receives a burst from one port and dispatches each of its packets.
    fn burst(&mut self, at: usize, now: Millis) -> usize {
        let Some(slot) = self.ports.slot_mut(at) else { return 0 };
        let received = slot.port.rx(&mut self.pool, self.batch.packets_mut());
        if received == 0 {
            return 0;
        }
        let ingress = slot.ingress();
        self.counters.burst(received);
        if let Some(c) = self.counters.port(ingress.port) {
            c.rx_packets.add(received as u64);
            c.rx_bytes
                .add(self.batch.packets().iter().map(|p| u64::from(p.len())).sum());
        }
        let tables = Tables {
            snapshot: self.reader.refresh(),
            flows: &self.flows,
        };
        process(&mut self.stages, &mut self.batch, ingress, tables, &mut self.pool, now);
        self.dispatch_burst(at, ingress);
        self.dispatch_reentered();
        received
    }

    fn dispatch_burst(&mut self, at: usize, ingress: Ingress) {
        let Self {
            batch,
            pool,
            counters,
            ports,
            outbox,
            reader,
            config,
            ..
        } = self;
        let (packets, parsed) = batch.drain_burst();
        let mut dispatcher = Dispatcher {
            pool,
            counters,
            ports,
            outbox,
            snapshot: reader.current(),
            me: config.id,
            ingress,
            at,
            parsed,
        };
        for (place, (packet, verdict)) in packets.enumerate() {
            dispatcher.dispatch(place, packet, verdict);
        }
    }

    /// Dispatches the held fragments that got their verdicts beside the burst, each at the port where it came in.
    #[inline]
    fn dispatch_reentered(&mut self) {
        if !self.batch.reentered.is_empty() {
            self.dispatch_each_reentered();
        }
    }

    #[cold]
    fn dispatch_each_reentered(&mut self) {
        let Self {
            batch,
            pool,
            counters,
            ports,
            outbox,
            reader,
            config,
            ..
        } = self;
        for held in batch.reentered.drain(..) {
            let ingress = held.ingress;
            // Held fragments are given up before their port is closed.
            let Some(at) = ports.find(ingress.port) else {
                let closed = Denial::new(DropReason::PortClosed);
                discard(held.packet, ingress.port, false, closed, pool, counters);
                continue;
            };
            let mut dispatcher = Dispatcher {
                pool,
                counters,
                ports,
                outbox,
                snapshot: reader.current(),
                me: config.id,
                ingress,
                at,
                parsed: ParsedPackets::NONE,
            };
            dispatcher.dispatch(0, held.packet, held.verdict);
        }
    }

    /// Puts what other workers gave into the queues of its ports.
    fn take_over(&mut self) -> usize {
        let mut taken = 0;
        for lane in 0..self.inbox.lanes() {
            for _ in 0..BURST {
                let Some(HandoverItem {
                    packet,
                    ingress,
                    egress,
                    to,
                    later_fragment,
                }) = self.inbox.pop(lane)
                else {
                    break;
                };
                taken += 1;
                let at = self.ports.find(egress);
                match at
                    .and_then(|at| self.ports.slot_mut(at))
                    .filter(|slot| slot.role.endpoint() == to)
                {
                    Some(slot) => {
                        slot.enqueue(
                            packet,
                            ingress,
                            forwarded(later_fragment),
                            &mut self.pool,
                            &self.counters,
                        );
                    }
                    None => discard(
                        packet,
                        ingress,
                        later_fragment,
                        Denial::new(DropReason::PortClosed),
                        &mut self.pool,
                        &self.counters,
                    ),
                }
            }
        }
        if taken > 0 {
            self.counters.taken_over.add(taken as u64);
        }
        taken
    }

    fn read_messages(&mut self) -> usize {
        let mut read = 0;
        while let Ok(message) = self.messages.try_recv() {
            read += 1;
            // Who asked may have stopped waiting: then a port that was to be handed back is dropped, which closes it.
            match message {
                Message::Add { port, role, done } => {
                    let _ = done.send(self.add(port, role));
                }
                Message::Remove { port, done } => {
                    let _ = done.send(self.remove(port).map(|(port, _)| port));
                }
                Message::Stop => self.stopped = true,
            }
        }
        read
    }

    fn add(&mut self, port: P, role: PortRole) -> Result<(), AddError<P>> {
        let PortId(number) = port.id();
        let limit = self.ports.numbers();
        if usize::from(number) >= limit {
            return Err(AddError::NumberTooGreat { port, number, limit });
        }
        if self.ports.find(PortId(number)).is_some() {
            return Err(AddError::NumberTaken { port, number });
        }
        let wakes = port.wait_fd().is_some_and(|fd| self.inbox.sleeper().watch(fd).is_ok());
        self.ports.add(port, role, wakes);
        Ok(())
    }

    /// Takes a port out, with nothing of it left here.
    fn remove(&mut self, number: PortId) -> Option<(P, PortRole)> {
        self.stages.close(&mut self.batch, number);
        self.dispatch_reentered();
        let (port, role) = self.ports.remove(number, &mut self.pool, &self.counters)?;
        if let Some(fd) = port.wait_fd() {
            self.inbox.sleeper().unwatch(fd);
        }
        Some((port, role))
    }

    /// Returns true if control has stopped it.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns its counters.
    #[must_use]
    pub const fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Gives back its ports, with nothing of them left here, and frees what other workers left in its lanes.
    ///
    /// To be called when no worker of the mesh runs any more: what one gives to a lane after its end is counted as
    /// outstanding.
    pub fn finish(mut self) -> Vec<(P, PortRole)> {
        self.inbox.close();
        let mut ports = Vec::with_capacity(self.ports.len());
        while let Some(slot) = self.ports.slots().first() {
            let number = slot.ingress().port;
            ports.extend(self.remove(number));
        }
        for item in self.inbox.drain() {
            discard(
                item.packet,
                item.ingress,
                item.later_fragment,
                Denial::new(DropReason::PortClosed),
                &mut self.pool,
                &self.counters,
            );
        }
        ports
    }
}
