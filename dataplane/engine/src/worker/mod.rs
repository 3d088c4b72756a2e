//! A worker: the rings of its ports, its hand-over lanes, and the turn that moves packets between them.
//!
//! [`process`] gives packets their verdicts. This module receives packets, sends them by the port that the verdict names, hands
//! them over to the worker that owns that port, or frees them. Each packet is counted at the port where it came in. One turn
//! serves every port once.

mod accounting;
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
use accounting::{Outcome, discard};
use dispatch::Dispatcher;
use port_table::PortTable;

/// The configuration of a worker.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// The worker's id.
    pub id: WorkerId,
    /// The limit of the port numbers, of this worker's ports and of all others: numbers are below it.
    pub ports: u16,
    /// The configuration of the stages.
    pub stages: StageConfig,
    /// The time without work after which the worker sleeps. `Duration::MAX` means never.
    pub idle_after: Duration,
    /// The longest sleep, so that flows expire on an idle node too.
    pub sleep_at_most: Duration,
    /// Flow records that are checked for expiry in one turn.
    pub expire_per_turn: u32,
}

impl WorkerConfig {
    /// Returns the defaults for worker `id`, with port numbers below `ports`.
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
    /// Packets received by the worker's ports.
    pub received: usize,
    /// Packets that other workers handed over.
    pub taken_over: usize,
    /// Messages from control.
    pub messages: usize,
}

impl TurnStats {
    /// Returns true if there was work.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.received + self.taken_over + self.messages > 0
    }
}

/// A worker. One thread at a time drives it. Tests drive several workers on one thread.
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
    /// Makes a worker without ports, and the handle by which control adds some.
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
            stages: Stages::new(config.stages, config.ports),
            batch: Box::new(Batch::new(&config.stages.fragments)),
            counters,
            stopped: false,
            config,
        };
        (worker, handle)
    }

    /// Serves every port, every lane and control's messages once.
    pub fn turn(&mut self, now: Millis) -> TurnStats {
        self.counters.now.set(now.0);
        self.stages.begin_turn(&mut self.batch, now);
        self.dispatch_reentered();
        // Before control's messages, so that packets in the lanes still leave by a port that a message removes.
        let taken_over = self.take_over();
        let messages = self.read_messages();
        let mut received = 0;
        for at in 0..self.ports.len() {
            received += self.burst(at, now);
        }
        if received == 0 {
            // A burst takes new tables before its first packet. Without a burst they are acknowledged here.
            self.reader.refresh();
        }
        // Each port sends once for all bursts of the turn, which costs at most one system call.
        for queued in self.ports.ports_mut() {
            queued.send(&mut self.pool, &self.counters);
            queued.port.flush(&mut self.pool);
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

    /// Adds the work of a turn to the counters.
    fn count(&mut self, stats: &TurnStats, expired: u32) {
        let c = &self.counters;
        c.turns.add(1);
        if stats.is_busy() {
            c.busy_turns.add(1);
            c.slow_path.add(std::mem::take(&mut self.stages.slow));
            c.encapsulated.add(std::mem::take(&mut self.stages.encapsulated));
            c.decapsulated.add(std::mem::take(&mut self.stages.decapsulated));
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
        let Some(queued) = self.ports.port_mut(at) else {
            return 0;
        };
        let received = queued.port.rx(&mut self.pool, self.batch.packets_mut());
        if received == 0 {
            return 0;
        }
        let ingress = queued.ingress();
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

    /// Returns the dispatcher for packets that came in by the port at the index `at`, and the batch beside it. The dispatcher
    /// has no parsed headers yet.
    #[inline]
    fn dispatcher(&mut self, at: usize, ingress: Ingress) -> (Dispatcher<'_, P>, &mut Batch) {
        let dispatcher = Dispatcher {
            pool: &mut self.pool,
            counters: &self.counters,
            ports: &mut self.ports,
            outbox: &mut self.outbox,
            snapshot: self.reader.current(),
            me: self.config.id,
            ingress,
            at,
            parsed: ParsedPackets::NONE,
        };
        (dispatcher, &mut self.batch)
    }

    /// Dispatches the packets of the burst by their verdicts.
    fn dispatch_burst(&mut self, at: usize, ingress: Ingress) {
        let (mut dispatcher, batch) = self.dispatcher(at, ingress);
        let (packets, parsed) = batch.drain_burst();
        dispatcher.parsed = parsed;
        for (place, (packet, verdict)) in packets.enumerate() {
            dispatcher.dispatch(place, packet, verdict);
        }
    }

    /// Dispatches the held fragments that got their verdicts beside the burst, each as a packet of the port where it came in.
    #[inline]
    fn dispatch_reentered(&mut self) {
        if !self.batch.reentered.is_empty() {
            self.dispatch_each_reentered();
        }
    }

    #[cold]
    fn dispatch_each_reentered(&mut self) {
        let mut reentered = std::mem::take(&mut self.batch.reentered);
        for held in reentered.drain(..) {
            let ingress = held.ingress;
            // A port gives its held fragments up before it is closed, so it is nearly always found.
            let Some(at) = self.ports.find(ingress.port) else {
                let closed = Denial::new(DropReason::PortClosed);
                discard(held.packet, ingress.port, false, closed, &mut self.pool, &self.counters);
                continue;
            };
            let (mut dispatcher, _) = self.dispatcher(at, ingress);
            dispatcher.dispatch(0, held.packet, held.verdict);
        }
        // The next burst uses the memory again: nothing is allocated.
        self.batch.reentered = reentered;
    }

    /// Appends the packets that other workers handed over to the queues of this worker's ports.
    ///
    /// At most a burst from each lane, so that one busy worker does not keep the others' packets waiting. A packet whose port
    /// leads to another endpoint by now is dropped.
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
                // Ports can have changed since the push: compare the endpoint.
                let at = self.ports.find(egress);
                match at
                    .and_then(|at| self.ports.port_mut(at))
                    .filter(|queued| queued.role.endpoint() == to)
                {
                    Some(queued) => {
                        queued.enqueue(
                            packet,
                            ingress,
                            Outcome::of_forwarded(later_fragment),
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
        self.inbox.settle();
        if taken > 0 {
            self.counters.taken_over.add(taken as u64);
        }
        taken
    }

    /// Carries out the messages of control that are waiting, and returns their number.
    fn read_messages(&mut self) -> usize {
        let mut read = 0;
        while let Ok(message) = self.messages.try_recv() {
            read += 1;
            // The sender may have stopped waiting. Then a port that was to be returned is dropped, which closes it.
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

    /// Adds a port, and watches its descriptor during sleep.
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

    /// Removes a port. Its held fragments are dropped and its queue is sent first.
    fn remove(&mut self, number: PortId) -> Option<(P, PortRole)> {
        self.stages.close(&mut self.batch, number);
        self.dispatch_reentered();
        let (port, role) = self.ports.remove(number, &mut self.pool, &self.counters)?;
        if let Some(fd) = port.wait_fd() {
            self.inbox.sleeper().unwatch(fd);
        }
        Some((port, role))
    }

    /// Returns true if control has stopped the worker.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns the worker's counters.
    #[must_use]
    pub const fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Ends the worker: returns its ports, and frees the packets in its lanes.
    ///
    /// Call it when no worker of the mesh runs any more. A packet that is pushed into a lane after this call stays outstanding.
    pub fn finish(mut self) -> Vec<(P, PortRole)> {
        self.inbox.close();
        let mut ports = Vec::with_capacity(self.ports.len());
        while let Some(queued) = self.ports.ports().first() {
            let number = queued.ingress().port;
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
