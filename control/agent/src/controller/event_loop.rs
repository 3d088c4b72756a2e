//! The controller's loop: waits for events, requests, reports and outcomes, handles them, and reconciles.

use std::time::{Duration, Instant};

use crossbeam::channel::{after, select};
use heddle_proto::{CniError, SocketError};

use super::error::ControllerError;
use super::state::Controller;
use crate::api::Request;

/// The interval of the checks for dead workers and silent ports, which no event announces.
const TICK: Duration = Duration::from_secs(1);
/// The interval of the checks for acknowledgements while something waits for them.
const WHILE_WAITING: Duration = Duration::from_millis(1);
/// The time for which one turn applies events before it looks at requests and signals again.
const EVENTS_FOR: Duration = Duration::from_millis(10);
/// The most batches of events that one turn takes from the queue before it reconciles.
const EVENTS_AT_ONCE: usize = 1024;
/// The most requests that one turn handles. Opening a port takes milliseconds, so more requests would delay the first
/// answers.
const REQUESTS_AT_ONCE: usize = 4;

impl Controller {
    /// Runs until a message arrives on the stop channel or the channel closes.
    ///
    /// `ready` is called once: when every kind of object has synced, the earlier agent's ports are open, every worker has
    /// the tables, and the first plan of the host port was applied.
    ///
    /// # Errors
    /// See [`ControllerError`]; the caller ends the agent.
    pub fn run(&mut self, ready: impl FnOnce()) -> Result<(), ControllerError> {
        let mut ready = Some(ready);
        let mut next_tick = Instant::now() + TICK;
        loop {
            // Wait for the next event, request, report or outcome; the order of the arms does not matter.
            let pause = if self.objects.has_queued() {
                Duration::ZERO
            } else if self.awaits_workers() {
                WHILE_WAITING
            } else {
                next_tick.saturating_duration_since(Instant::now())
            };
            let timer = after(pause);
            let (stop, events, requests) = (self.stop.clone(), self.events.clone(), self.requests.clone());
            let (reports, outcomes) = (self.host.reports().clone(), self.journal.outcomes().clone());
            let deleted_stale = self.deleted_stale.clone();
            select! {
                recv(stop) -> _ => return Ok(()),
                recv(events) -> batch => {
                    let batch = batch.map_err(|_| ControllerError::SourceEnded)?;
                    self.objects.enqueue(batch);
                }
                recv(requests) -> request => {
                    if let Ok(request) = request {
                        self.handle(request);
                    }
                }
                recv(reports) -> report => {
                    if let Ok(report) = report {
                        self.record_host_report(report)?;
                    }
                }
                recv(outcomes) -> outcome => {
                    if let Ok(outcome) = outcome {
                        self.record_write(&outcome);
                    }
                }
                recv(deleted_stale) -> deleted => {
                    if let Ok(deleted) = deleted {
                        self.prepare_after_deletion(deleted);
                    }
                }
                recv(timer) -> _ => {}
            }
            // One reconciliation for everything that has arrived meanwhile: many changes cost one build of the tables. The
            // tables change between batches only, because a batch is one change of the source; requests are handled within one.
            self.drain_queues();
            self.objects.apply_for(EVENTS_FOR);
            if !self.objects.is_in_batch() {
                self.reconcile()?;
            }
            // Answers come after reconciliation: it may have published what they wait for.
            self.answer_pending();
            self.sweep_when_due();
            if self.is_ready()
                && let Some(ready) = ready.take()
            {
                ready();
                self.was_ready = true;
                self.show_can_add();
                self.report_node();
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick()?;
            }
            self.update_read_model();
        }
    }

    /// Returns `true` if something waits for the workers' acknowledgement, or for a deadline that is close.
    fn awaits_workers(&mut self) -> bool {
        !self.attachments.pending.is_empty()
            || self.waits_for_uplink_until.is_some()
            || self
                .publication
                .as_ref()
                .is_some_and(|p| p.sweep_after.is_some() || p.waits_for_host_until.is_some())
            || self.workers.acknowledged() < self.workers.published()
    }

    /// Returns `true` if every worker uses the newest tables, the host task has tried the newest plan, the host port is open, and
    /// the uplink is open or cannot be.
    fn is_ready(&mut self) -> bool {
        self.publication.as_ref().is_some_and(|p| p.has_published)
            && self.workers.acknowledged() >= self.workers.published()
            && self.host.has_tried_newest_plan()
            && self.closed_host.is_none()
            && self.is_uplink_settled()
    }

    /// Handles queued events and requests, each up to a bound.
    fn drain_queues(&mut self) {
        for _ in 0..EVENTS_AT_ONCE {
            let Ok(batch) = self.events.try_recv() else { break };
            self.objects.enqueue(batch);
        }
        for _ in 1..REQUESTS_AT_ONCE {
            let Ok(request) = self.requests.try_recv() else { break };
            self.handle(request);
        }
    }

    /// Handles a request of the CNI socket. The plugin may have ended by now; the work is done all the same, because a
    /// repeated request finds it done.
    fn handle(&mut self, request: Request) {
        match request {
            Request::Prepare { request, reply } => self.prepare(request, reply),
            Request::Ready {
                container,
                ifname,
                request,
                reply,
            } => self.make_ready(&container, &ifname, &request, reply),
            Request::Attachment {
                container,
                ifname,
                reply,
            } => drop(reply.send(self.attachment(&container, &ifname))),
            Request::Release {
                container,
                ifname,
                reply,
            } => self.release(&container, &ifname, reply),
            Request::Readiness { reply } => drop(reply.send(self.readiness())),
        }
    }

    /// Runs the checks for states that no event announces: dead workers, silent ports, and tries that are due.
    fn tick(&mut self) -> Result<(), ControllerError> {
        if let Some(worker) = self.workers.dead_worker() {
            return Err(ControllerError::WorkerDied(worker));
        }
        self.workers.reclaim_stranded();
        self.retry_closed_ports()?;
        self.retry_uplink();
        self.journal.retry(&mut self.attachments.store);
        self.shrink_silent()?;
        self.read_model.sample();
        self.show_can_add();
        Ok(())
    }

    /// Ends workers, host task and journal; the kernel's state stays for the next start.
    pub fn finish(mut self) {
        // Pending writes are finished and answered first, because their changes have taken effect.
        self.journal.finish();
        while let Ok(outcome) = self.journal.outcomes().try_recv() {
            self.record_write(&outcome);
        }
        for pending in std::mem::take(&mut self.attachments.pending) {
            pending.fail(CniError::stopping());
        }
        self.host.stop();
        self.workers.stop();
    }
}
