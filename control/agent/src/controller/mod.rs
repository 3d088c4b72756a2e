//! The controller: one thread that owns attachments, objects, tables and ports.
//!
//! It takes events of the source, requests of the CNI plugin, reports of the host task and outcomes of the journal one
//! after the other, and then reconciles: it carries what has changed to the tables, the kernel and the health-check ports
//! (`Controller::reconcile`). Nothing is published until every kind of object has synced.
//!
//! The thread never waits for the disk, for `nft` or for netlink. Each part owns its own state:
//!
//! - `attachments`: records and stages of this node's attachments; `cni` has the requests that change them.
//! - `objects`: the cluster model and the changes that the tables do not have yet.
//! - `publication`: the compiler, the version published last, and what waits for acknowledgements.
//! - `host`: the host task, which reconciles the node's kernel state on a thread of its own.
//! - `journal`: writes the state file on a thread of its own.
//! - `crate::read_model`: answers the operator's queries without this thread.
//!
//! Opening a socket takes the thread milliseconds; the workers never wait for it.

mod attachments;
mod cni;
mod host;
mod journal;
mod objects;
mod pod_routes;
mod publication;
mod sweep;
mod takeover;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, after, select, unbounded};
use heddle_compile::NodeConfig;
use heddle_flow::Takeover;
use heddle_host::HostError;
use heddle_host::external_aliases::ExternalAliases;
use heddle_model::{Changes, Event};
use heddle_tables::{HostPort as HostTable, WorkerId};
use tokio::runtime::Handle;

use crate::api::Request;
use crate::attachments::Store;
use crate::health::{self, HealthChecks};
use crate::read_model::{ReadModel, View};
use crate::workers::{Workers, WorkersError};
use attachments::Attachments;
use cni::{DeletedStale, HeldAnswer};
use heddle_config::Settings;
use host::{HostChange, HostReconciler};
use journal::Journal;
use objects::{Objects, concerns_host};
use publication::{HostTables, Publication};

/// The pause between two looks at what nobody announces: vanished interfaces, dead workers.
const TICK: Duration = Duration::from_secs(1);
/// The pause between two looks at the workers' acknowledgements while something waits for them.
const WHILE_WAITING: Duration = Duration::from_millis(1);
/// The most batches of events that are taken before they are worked off.
const EVENTS_AT_ONCE: usize = 1024;
/// The most requests that are taken at once. Opening a port takes milliseconds, so more would delay the first answers.
const REQUESTS_AT_ONCE: usize = 4;
/// The longest time for which the first tables wait until the host task has found the uplink, whose MTU they contain.
const WAIT_FOR_UPLINK: Duration = Duration::from_millis(500);

/// A reason for which the controller ends before it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A worker's thread has died: packets of its ports go nowhere.
    #[error("worker {0} has died: the agent ends, pods are closed until it is started again")]
    WorkerDied(WorkerId),
    /// The source of objects has ended.
    #[error("the manifest folder is not followed any more: start the agent again")]
    SourceEnded,
    /// The host port cannot be made.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The workers cannot go on.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The journal's thread cannot be started.
    #[error("starting the journal: {0}")]
    Journal(#[from] io::Error),
}

/// The parts that a controller is made of.
pub struct Parts {
    /// The configuration.
    pub settings: Settings,
    /// The attachments of the state directory.
    pub store: Store,
    /// Workers and ports.
    pub workers: Workers,
    /// The outcome of taking over the flow table.
    pub takeover: Takeover,
    /// The runtime of the health checks' sockets.
    pub runtime: Handle,
    /// Batches of events.
    pub events: Receiver<Vec<Event>>,
    /// Requests of the CNI socket.
    pub requests: Receiver<Request>,
    /// A message, or the end of the channel, ends the controller.
    pub stop: Receiver<()>,
}

/// The controller.
pub struct Controller {
    settings: Settings,
    events: Receiver<Vec<Event>>,
    requests: Receiver<Request>,
    stop: Receiver<()>,

    workers: Workers,
    takeover: Takeover,
    objects: Objects,
    attachments: Attachments,
    /// `None` until every kind of object has synced.
    publication: Option<Publication>,
    host: HostReconciler,
    /// The ports at which the node's processes reach load balancer and external addresses that the node itself holds.
    external_aliases: ExternalAliases,
    journal: Journal,
    /// Answers that wait for the journal.
    held: Vec<HeldAnswer>,
    deleted_stale_in: Sender<DeletedStale>,
    /// Requests that waited for the deletion of an interface.
    deleted_stale: Receiver<DeletedStale>,
    /// Every kind of object has synced, and the uplink is waited for until then.
    waits_for_uplink_until: Option<Instant>,
    health: HealthChecks,
    /// Ports of health checks that could not be opened, so that each is logged once.
    health_failures: BTreeSet<u16>,
    read_model: Arc<ReadModel>,
    /// Tables or ports have changed since the read model was updated.
    view_is_stale: bool,
}

impl Controller {
    /// Makes the host port, or takes it over. Called on the thread that will run the controller.
    ///
    /// # Errors
    /// The kernel refuses the host port.
    pub fn new(parts: Parts) -> Result<Self, ControllerError> {
        let Parts {
            settings,
            store,
            workers,
            takeover,
            runtime,
            events,
            requests,
            stop,
        } = parts;
        let objects = Objects::new(&settings.node);
        let (deleted_stale_in, deleted_stale) = unbounded();
        let read_model = Arc::new(ReadModel::new(settings.clone(), takeover, objects.shared(), &workers));
        let mut controller = Self {
            host: HostReconciler::start(&settings)?,
            settings,
            events,
            requests,
            stop,
            workers,
            takeover,
            objects,
            attachments: Attachments::new(store),
            publication: None,
            external_aliases: ExternalAliases::default(),
            journal: Journal::start()?,
            held: Vec::new(),
            deleted_stale_in,
            deleted_stale,
            waits_for_uplink_until: None,
            health: HealthChecks::new(runtime),
            health_failures: BTreeSet::new(),
            read_model,
            view_is_stale: true,
        };
        controller.update_read_model();
        Ok(controller)
    }

    /// Returns the read model, which answers queries while the controller runs.
    #[must_use]
    pub fn read_model(&self) -> Arc<ReadModel> {
        Arc::clone(&self.read_model)
    }

    /// Runs until it is asked to stop. `ready` is called once: when everything has synced, what an earlier agent left is
    /// taken over, every worker has the tables, and the first plan of the host port was applied.
    ///
    /// # Errors
    /// Something that the agent cannot go on without.
    pub fn run(&mut self, ready: impl FnOnce()) -> Result<(), ControllerError> {
        let mut ready = Some(ready);
        let mut next_tick = Instant::now() + TICK;
        loop {
            // Wait for something to do; the order of the arms does not matter.
            let pause = if self.awaits_workers() {
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
                    self.objects.apply(batch);
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
            // Take what has come meanwhile, so that many changes are worked off together.
            self.drain_queues();
            self.reconcile()?;
            // Answers come after reconciliation: it may have published what they wait for.
            self.answer_pending();
            self.sweep_when_due();
            if self.is_ready()
                && let Some(ready) = ready.take()
            {
                ready();
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick()?;
            }
            self.update_read_model();
        }
    }

    /// Returns whether something waits for the workers' acknowledgement, or for a deadline that is close.
    fn awaits_workers(&mut self) -> bool {
        !self.attachments.pending.is_empty()
            || self.waits_for_uplink_until.is_some()
            || self
                .publication
                .as_ref()
                .is_some_and(|p| p.sweep_after.is_some() || p.waits_for_host_until.is_some())
            || self.workers.acknowledged() < self.workers.published()
    }

    /// Returns whether the first tables are in use and the host port was brought to its first plan.
    fn is_ready(&mut self) -> bool {
        self.publication.as_ref().is_some_and(|p| p.has_published)
            && self.workers.acknowledged() >= self.workers.published()
            && self.host.is_settled()
    }

    /// Takes queued events and requests, each up to a bound.
    fn drain_queues(&mut self) {
        for _ in 0..EVENTS_AT_ONCE {
            let Ok(batch) = self.events.try_recv() else { break };
            self.objects.apply(batch);
        }
        for _ in 1..REQUESTS_AT_ONCE {
            let Ok(request) = self.requests.try_recv() else { break };
            self.handle(request);
        }
    }

    /// Handles a request of the CNI socket. The plugin may have gone; the work is done all the same, since a repeated
    /// request finds it done.
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

    /// Carries everything that has changed since the last call to the tables, the kernel and the health-check ports.
    ///
    /// The order of the steps:
    ///
    /// 1. Rejections are logged even while nothing is published.
    /// 2. The first time, the compiler is made and an earlier agent's ports are opened before the tables that name them;
    ///    what comes in between is dropped.
    /// 3. The host task gets its plan first: it works beside this thread, and the tables wait for it (step 6).
    /// 4. The compiler gets the changed objects, ...
    /// 5. ... then the attachments whose pods they made known, so that both are in the same tables.
    /// 6. The tables are published. A worker that answers an address of the host port finds it there, so they wait for
    ///    the host task; but only for a bounded time, and not if an ADD waits for them.
    /// 7. The host port's queues are opened after the first tables: nothing comes in by them before.
    /// 8. Health checks come last: a load balancer learns of an endpoint when its traffic would be forwarded.
    fn reconcile(&mut self) -> Result<(), ControllerError> {
        self.objects.log_rejections();
        let is_first = self.publication.is_none();
        if is_first && !self.start_publication() {
            return Ok(());
        }
        let changes = self.objects.take_changes();
        if changes.is_empty() && !self.publication.as_ref().is_some_and(|p| p.is_changed) {
            return Ok(());
        }
        self.feed_compiler_and_host(&changes, is_first);
        self.attach_known_pods();
        if self.publish() {
            self.open_host_once()?;
        }
        self.serve_health_checks(&changes, is_first);
        Ok(())
    }

    /// Makes the compiler once every kind of object has synced and the uplink is known, and takes over an earlier agent's
    /// ports. Returns false while it waits.
    fn start_publication(&mut self) -> bool {
        if !self.objects.is_synced() {
            return false;
        }
        self.host.set_node_addresses(self.objects.internal_ips());
        let deadline = *self
            .waits_for_uplink_until
            .get_or_insert_with(|| Instant::now() + WAIT_FOR_UPLINK);
        if self.host.uplink().is_none() && Instant::now() < deadline {
            return false;
        }
        self.waits_for_uplink_until = None;
        self.host.warn_without_uplink();
        let HostTables { host, masquerade } = self.host_tables();
        let settings = &self.settings;
        self.publication = Some(Publication::new(NodeConfig {
            host,
            host_port: heddle_port::PortId(0),
            masquerade,
            local_mtu: settings.pod_mtu,
            uplink: self.objects.uplink_mtu(self.host.uplink()),
            service_cidrs: settings.service_cidrs.iter().map(|&r| publication::prefix(r)).collect(),
            external_ips: settings.external_ips,
            node_ids: publication::node_ids(self.attachments.store.node_ids()),
            ..NodeConfig::named(settings.node.as_str())
        }));
        self.take_over_ports();
        tracing::info!(node = self.settings.node, "every kind of object has synced");
        true
    }

    /// Gives the changed objects to the host task and to the compiler.
    fn feed_compiler_and_host(&mut self, changes: &Changes, is_first: bool) {
        let changed_aliases =
            self.external_aliases
                .follow(&self.objects.cluster(), changes, self.settings.external_ips);
        if is_first || changes.objects.iter().any(concerns_host) {
            self.plan_host();
        }
        let tables = self.host_tables();
        let pod_ranges = self.objects.pod_ranges();
        let cluster = self.objects.cluster();
        if let Some(publication) = &mut self.publication {
            publication.apply_changes(&cluster, changes, tables);
            publication.set_external_aliases(&cluster, &pod_ranges, &self.external_aliases, changed_aliases);
        }
    }

    /// Hands the host task the plan that follows from the objects, and makes the next tables wait for it if it is new.
    fn plan_host(&mut self) {
        self.host.set_node_addresses(self.objects.internal_ips());
        let plan = self
            .objects
            .host_plan(&self.settings, &self.external_aliases, self.host.uplink());
        if let Some(plan) = plan {
            self.host.set_plan(plan);
        }
        if !self.host.is_settled()
            && let Some(publication) = &mut self.publication
        {
            publication.wait_for_host();
        }
    }

    /// Gives the compiler the attachments whose pods have become known.
    fn attach_known_pods(&mut self) {
        let Some(publication) = &mut self.publication else {
            return;
        };
        let cluster = self.objects.cluster();
        for attachment in self.attachments.compile_known_pods(&cluster) {
            publication.compiler.attach(attachment);
            publication.is_changed = true;
        }
    }

    /// Builds and publishes the tables; returns false while they wait for the host task.
    fn publish(&mut self) -> bool {
        let Some(publication) = &mut self.publication else {
            return false;
        };
        let may_wait = self.attachments.pending.is_empty() && !self.host.is_settled();
        if may_wait
            && publication
                .waits_for_host_until
                .is_some_and(|until| Instant::now() < until)
        {
            publication.is_changed = true;
            return false;
        }
        let is_first = !publication.has_published;
        let built = publication.build();
        self.attachments.set_published(built.ready);
        if !built.node_ids.is_empty() {
            // A failure is logged by the journal: connections with these nodes are revalidated after a restart.
            let ids = built.node_ids.into_iter().map(|(name, id)| (name.to_string(), id.0));
            self.attachments.store.keep_node_ids(ids);
            self.journal.save(&mut self.attachments.store);
        }
        self.view_is_stale = true;
        if built.changed || is_first {
            tracing::debug!(
                version = built.snapshot.version(),
                pages = built.pages_copied,
                endpoints_raised = built.raised.len(),
                "published tables"
            );
            self.workers.publish(built.snapshot);
            publication.published_at = Instant::now();
        }
        publication.log_differences();
        if is_first || built.new_frontends || !built.removed_backends.is_empty() {
            publication.sweep_after = Some(self.workers.published());
        }
        true
    }

    /// Opens the host port's queues after the first tables.
    fn open_host_once(&mut self) -> Result<(), ControllerError> {
        if let Some(publication) = &mut self.publication
            && !publication.has_published
        {
            publication.has_published = true;
            self.workers.open_host(heddle_host::PEER, self.host.link().peer_index)?;
            self.view_is_stale = true;
        }
        Ok(())
    }

    /// Opens and closes the ports of health checks as the objects ask for.
    fn serve_health_checks(&mut self, changes: &Changes, is_first: bool) {
        let cluster = self.objects.cluster();
        if !is_first && !changes.objects.iter().any(|change| health::concerns(&cluster, change)) {
            return;
        }
        let failed = self.health.serve(health::wanted(&cluster, &self.settings.node));
        for (port, error) in &failed {
            if !self.health_failures.contains(port) {
                tracing::error!(
                    "healthCheckNodePort {port} cannot be served, so load balancers see this node as one without \
                     endpoints: {error}; the next change of a Service or its endpoints tries again"
                );
            }
        }
        self.health_failures = failed.into_iter().map(|(port, _)| port).collect();
    }

    /// Returns the host's side of the tables.
    fn host_tables(&self) -> HostTables {
        let (addresses, masquerade) = self.objects.reserved_addresses(&self.settings);
        HostTables {
            host: HostTable {
                mac: self.host.link().mac,
                addresses,
            },
            masquerade,
        }
    }

    /// Records a report of the host task and follows its consequence.
    fn record_host_report(&mut self, report: heddle_host::Report) -> Result<(), ControllerError> {
        let change = self.host.record(report);
        // Before the first tables nothing depends on the host port.
        let Some(publication) = &mut self.publication else {
            return Ok(());
        };
        match change {
            HostChange::Nothing => {}
            HostChange::Uplink => {
                let mtu = self.objects.uplink_mtu(self.host.uplink());
                publication.is_changed |= publication.compiler.set_uplink_mtu(mtu);
                self.plan_host();
            }
            HostChange::Recreated => {
                // The old queues are of a device that is gone.
                publication.is_changed = true;
                if publication.has_published {
                    self.workers.close_host()?;
                    self.workers.open_host(heddle_host::PEER, self.host.link().peer_index)?;
                    self.view_is_stale = true;
                }
            }
        }
        Ok(())
    }

    /// Looks after what nobody announces.
    fn tick(&mut self) -> Result<(), ControllerError> {
        if let Some(worker) = self.workers.dead_worker() {
            return Err(ControllerError::WorkerDied(worker));
        }
        self.close_vanished();
        self.shrink_silent()?;
        self.read_model.sample();
        Ok(())
    }

    /// Gives the read model the state that readers see, if it has changed.
    fn update_read_model(&mut self) {
        self.read_model.set_acknowledged(self.workers.acknowledged());
        let attachments_changed = std::mem::take(&mut self.attachments.is_changed);
        if !std::mem::take(&mut self.view_is_stale) && !attachments_changed {
            return;
        }
        let publication = self.publication.as_ref();
        self.read_model.update(View {
            snapshot: self.workers.newest().cloned(),
            synced_at: publication.map(|p| p.synced_at),
            published_at: publication.map(|p| p.published_at),
            compiled: publication.map_or((0, 0), |p| (p.compiler.identity_count(), p.compiler.policy_count())),
            attachments: self.attachments.describe_all(&self.objects.cluster()),
            ports: self.workers.ports().map(|(port, info)| (port, info.clone())).collect(),
        });
    }

    /// Ends workers, host task and journal; the kernel's state stays for the next start.
    pub fn finish(mut self) {
        // Pending writes are finished and answered first: their changes have taken effect.
        self.journal.finish();
        while let Ok(outcome) = self.journal.outcomes().try_recv() {
            self.record_write(&outcome);
        }
        for pending in std::mem::take(&mut self.attachments.pending) {
            pending.refuse("the agent is stopping; it will be there again");
        }
        self.host.stop();
        self.workers.stop();
    }
}
