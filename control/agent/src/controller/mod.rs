//! The control thread: the one owner of attachments, objects, tables and ports.
//!
//! It takes what comes (objects from the source, requests from the sockets, the wish to stop) one after the other, works
//! off what that changed ([`Controller::reconcile`]) and answers who waits for it. Nothing is published until every kind of
//! object has synced. Opening a socket takes it milliseconds; the workers never wait for it.

mod attach;
mod denied;
mod drops;
mod flows;
mod names;
mod objects;
mod pod_routes;
mod report;
mod sweep;
mod takeover;
mod uplink;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, after, select};
use heddle_compile::Compiler;
use heddle_flow::Takeover;
use heddle_model::{Changes, Cluster, Event};
use heddle_tables::{EndpointId, WorkerId};
use tokio::runtime::Handle;

use crate::api::Request;
use crate::attachments::Store;
use crate::health::HealthChecks;
use crate::workers::{PodPort, Workers, WorkersError};
use heddle_config::Settings;
use heddle_host::external_aliases::ExternalAliases;
use heddle_host::uplink::Uplink;
use heddle_host::{HostError, HostPort, Plan};

pub(crate) use attach::Waiting;

/// How often things are looked after that nobody announces: vanished interfaces, dead workers.
const TICK: Duration = Duration::from_secs(1);
/// How often the workers' acknowledgements are looked at while somebody waits for them.
const WHILE_WAITING: Duration = Duration::from_millis(1);
/// Batches of events that are taken before what they changed is worked off.
const EVENTS_AT_ONCE: usize = 1024;
/// Requests that are taken at once: opening a port takes milliseconds, and who came first shall not wait for all others.
const REQUESTS_AT_ONCE: usize = 4;

/// What ends the control thread before it is asked to.
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
    /// The dataplane cannot go on.
    #[error(transparent)]
    Workers(#[from] WorkersError),
}

/// What the control thread is made of.
pub struct Parts {
    /// The configuration.
    pub settings: Settings,
    /// The attachments.
    pub store: Store,
    /// Workers and ports.
    pub workers: Workers,
    /// What became of the flow table that was found.
    pub takeover: Takeover,
    /// The runtime of sockets and netlink.
    pub runtime: Handle,
    /// Batches of events.
    pub events: Receiver<Vec<Event>>,
    /// Requests of the sockets.
    pub requests: Receiver<Request>,
    /// Something arrives, or this closes: the agent shall end.
    pub stop: Receiver<()>,
}

/// The control thread's state.
pub struct Controller {
    settings: Settings,
    store: Store,
    workers: Workers,
    takeover: Takeover,
    runtime: Handle,
    events: Receiver<Vec<Event>>,
    requests: Receiver<Request>,
    stop: Receiver<()>,
    started: Instant,

    cluster: Cluster,
    /// Changes that the compiler has not seen; all of them until everything has synced.
    pending: Changes,
    compiler: Option<Compiler>,
    /// Something was attached, detached or changed since the last build.
    dirty: bool,
    synced_at: Option<Instant>,
    published_at: Instant,

    host: HostPort,
    uplink: Option<Uplink>,
    plan: Option<Plan>,
    /// What the host port's plan was told to have failed with, so that it is logged once.
    plan_failures: BTreeSet<String>,
    /// Where the node's processes reach load balancer and external addresses that it holds.
    external_aliases: ExternalAliases,
    /// The address of each family for that, as the compiler was told.
    external_alias_addresses: [Option<IpAddr>; 2],
    health: HealthChecks,
    /// Ports of health checks that could not be opened, so that each is logged once.
    health_failures: BTreeSet<u16>,

    /// Open ports of pods, by attachment number.
    open: BTreeMap<u16, PodPort>,
    /// Attachments that the compiler knows.
    compiled: BTreeSet<EndpointId>,
    /// Attachments whose policy is in the tables published last.
    ready: BTreeSet<EndpointId>,
    /// Why attachments that should forward have no port.
    closed: BTreeMap<u16, String>,
    waiting: Vec<Waiting>,
    /// The flow table is to be swept once every worker has the tables of this version: until then one may still choose
    /// a backend that is removed.
    sweep_after: Option<u64>,

    known_rejections: BTreeSet<String>,
    known_differences: BTreeSet<String>,
    meters: report::Meters,
    denied: denied::DeniedSums,
    /// Tells this process from others in cursors.
    instance: u64,
}

impl Controller {
    /// Makes the host port, or takes it over. To be called on the control thread.
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
        let host = make_host(&runtime, &settings)?;
        let health = HealthChecks::new(runtime.clone());
        heddle_host::reserved::reserve(&settings.state_dir, &settings.reserved_ports.ports())?;
        heddle_host::sysctl::warn_without_forwarding();
        Ok(Self {
            meters: report::Meters::new(workers.threads().len()),
            settings,
            store,
            workers,
            takeover,
            runtime,
            events,
            requests,
            stop,
            started: Instant::now(),
            cluster: Cluster::new(),
            pending: Changes::default(),
            compiler: None,
            dirty: false,
            synced_at: None,
            published_at: Instant::now(),
            host,
            uplink: None,
            plan: None,
            plan_failures: BTreeSet::new(),
            external_aliases: ExternalAliases::default(),
            external_alias_addresses: [None; 2],
            health,
            health_failures: BTreeSet::new(),
            open: BTreeMap::new(),
            compiled: BTreeSet::new(),
            ready: BTreeSet::new(),
            closed: BTreeMap::new(),
            waiting: Vec::new(),
            sweep_after: None,
            known_rejections: BTreeSet::new(),
            known_differences: BTreeSet::new(),
            denied: denied::DeniedSums::default(),
            // Of 53 bits: every reader of JSON keeps them.
            instance: RandomState::new().hash_one(std::process::id()) >> 11,
        })
    }

    /// Runs until it is asked to stop. `ready` is called once, when everything has synced, what was found is taken over,
    /// and every worker has the tables.
    ///
    /// # Errors
    /// Something that the agent cannot go on without.
    pub fn run(&mut self, ready: impl FnOnce()) -> Result<(), ControllerError> {
        let mut ready = Some(ready);
        let mut next_tick = Instant::now() + TICK;
        loop {
            let awaits_workers =
                !self.waiting.is_empty() || self.sweep_after.is_some() || ready.is_some() && self.synced_at.is_some();
            let pause = if awaits_workers {
                WHILE_WAITING
            } else {
                next_tick.saturating_duration_since(Instant::now())
            };
            let events = self.events.clone();
            let requests = self.requests.clone();
            let stop = self.stop.clone();
            let timer = after(pause);
            select! {
                recv(stop) -> _ => return Ok(()),
                recv(events) -> batch => {
                    let batch = batch.map_err(|_| ControllerError::SourceEnded)?;
                    self.take_events(batch);
                }
                recv(requests) -> request => {
                    if let Ok(request) = request {
                        self.take_request(request);
                    }
                }
                recv(timer) -> _ => {}
            }
            self.take_more();
            self.reconcile()?;
            self.answer_waiting();
            self.sweep_when_due();
            if self.synced_at.is_some()
                && self.workers.acknowledged() >= self.workers.published()
                && let Some(ready) = ready.take()
            {
                ready();
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick()?;
            }
        }
    }

    /// Takes what has come meanwhile, so that many changes at once are worked off together.
    fn take_more(&mut self) {
        for _ in 0..EVENTS_AT_ONCE {
            let Ok(batch) = self.events.try_recv() else { break };
            self.take_events(batch);
        }
        for _ in 1..REQUESTS_AT_ONCE {
            let Ok(request) = self.requests.try_recv() else { break };
            self.take_request(request);
        }
    }

    fn take_events(&mut self, events: Vec<Event>) {
        for event in events {
            let changes = self.cluster.apply(event);
            self.pending.extend(changes);
        }
    }

    fn take_request(&mut self, request: Request) {
        // Who asked may have gone; the work is done all the same, since a repeated request finds it done.
        match request {
            Request::Prepare { request, reply } => drop(reply.send(self.prepare(&request))),
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
            } => drop(reply.send(self.release(&container, &ifname))),
            Request::Readiness { reply } => drop(reply.send(self.readiness())),
            Request::Status { reply } => drop(reply.send(Ok(self.status()))),
            Request::Drops { request, reply } => drop(reply.send(self.drops(&request))),
            Request::Flows { request, reply } => drop(reply.send(self.flows(&request))),
        }
    }

    fn tick(&mut self) -> Result<(), ControllerError> {
        if let Some(worker) = self.workers.dead_worker() {
            return Err(ControllerError::WorkerDied(worker));
        }
        if self.compiler.is_some() && !self.host.is_there() {
            self.restore_host()?;
        }
        self.look_at_uplink();
        self.close_vanished();
        self.shrink_silent()?;
        self.meters.sample(&self.workers);
        self.sum_denied();
        Ok(())
    }

    fn open_host(&mut self) -> Result<(), ControllerError> {
        self.workers.open_host(heddle_host::PEER, self.host.peer_index())?;
        Ok(())
    }

    /// Makes the host port anew after somebody has deleted it.
    fn restore_host(&mut self) -> Result<(), ControllerError> {
        tracing::error!("interface {} has gone; it is made anew", heddle_host::INTERFACE);
        self.workers.close_host()?;
        self.host = make_host(&self.runtime, &self.settings)?;
        self.set_host_mtu();
        self.open_host()?;
        self.plan = None;
        self.dirty = true;
        self.reconcile()?;
        self.apply_plan();
        Ok(())
    }

    /// Ends the workers and closes the sockets; everything else stays for the next start.
    pub fn finish(self) {
        for waiting in self.waiting {
            waiting.refuse("the agent is stopping; it will be there again");
        }
        self.workers.stop();
    }
}

/// Makes the host port, or takes it over.
fn make_host(runtime: &Handle, settings: &Settings) -> Result<HostPort, ControllerError> {
    let queues = u32::try_from(settings.worker_cores.len()).unwrap_or(u32::MAX);
    let host = runtime.block_on(async {
        let handle = heddle_host::netlink::connect()?;
        HostPort::open(handle, queues, uplink::USUAL_MTU.into(), heddle_host::Nft::default()).await
    })?;
    Ok(host)
}
