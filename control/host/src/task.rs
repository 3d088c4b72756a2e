//! The host task: a thread that runs every netlink request and every `nft` call of the agent.
//!
//! The control thread starts it, hands it the newest [`Plan`] and never waits for it. Outcomes come back as [`Report`]s, and
//! [`HostHandle::status`] reads the last state from any thread. Of the plans that arrive while an earlier one is being
//! applied, only the newest is applied next. A slow `nft` delays neither the deletion of an interface nor the task's end:
//! both are served while `nft` runs, and stopping kills it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::{Duration, Instant};

use heddle_wire::MacAddr;
use tokio::sync::{mpsc, watch};

use crate::error::HostError;
use crate::netlink::{self, Handle};
use crate::nft_program::Nft;
use crate::plan::Plan;
use crate::port::HostPort;
use crate::uplink::{self, Uplink};
use crate::well_known::INTERFACE;
use crate::{links, reserved, sysctl};

/// The interval at which the task checks the host port's interfaces and the uplink.
const TICK: Duration = Duration::from_secs(1);
/// The pause before a plan that failed in part is applied again, if no newer one arrives.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The settings of the host task, fixed while it runs.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The queues of the host port: one for each worker.
    pub queues: u32,
    /// The MTU of a new pair of interfaces until the first plan arrives; a pair that is taken over keeps its own.
    pub mtu: u32,
    /// The state directory, where the reserved ports are recorded.
    pub state_dir: PathBuf,
    /// The source ports that heddle reserves.
    pub reserved_ports: RangeInclusive<u16>,
    /// The uplink's name, if the configuration names one.
    pub uplink: Option<String>,
    /// The `nft` program.
    pub nft: Nft,
}

/// The properties of the host port's pair of interfaces that the dataplane needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLink {
    /// The Ethernet address of the node's end.
    pub mac: MacAddr,
    /// The interface index of the node's end.
    pub index: u32,
    /// The interface index of the dataplane's end, which the host port's queues are opened on.
    pub peer_index: u32,
}

/// An outcome or an observation of the host task.
#[derive(Debug)]
pub enum Report {
    /// A plan was applied.
    Reconciled {
        /// The revision that came with the plan.
        revision: u64,
        /// The steps that failed. The task tries them again.
        failures: Vec<HostError>,
    },
    /// Somebody deleted the host port's pair, and it was re-created. The controller reopens the queues.
    Recreated(HostLink),
    /// Somebody deleted the host port's pair, and it cannot be re-created now. The task tries again every second.
    Lost(HostError),
    /// The uplink, sent after the first search and after each change.
    Uplink(Option<Uplink>),
}

/// The host task's last state, for `status` and metrics.
#[derive(Debug, Clone, Default)]
pub struct HostStatus {
    /// The pair of interfaces; `None` while it is deleted.
    pub link: Option<HostLink>,
    /// The uplink.
    pub uplink: Option<Uplink>,
    /// The revision of the plan that was applied last.
    pub revision: u64,
    /// The time at which the kernel's state was last brought to the plan without a failure.
    pub verified_at: Option<Instant>,
    /// The steps of the last plan that failed.
    pub failures: Vec<String>,
}

/// The newest state that the control thread asks for.
#[derive(Debug, Clone, Default)]
struct Wanted {
    revision: u64,
    plan: Option<Arc<Plan>>,
    node_addresses: Vec<IpAddr>,
}

type Reply = Box<dyn FnOnce(Result<bool, HostError>) + Send>;

/// An interface that is to be deleted.
struct Deletion {
    name: String,
    reply: Reply,
}

/// The control thread's end of the host task. No method waits.
#[derive(Debug)]
pub struct HostHandle {
    wanted: watch::Sender<Wanted>,
    deletions: mpsc::UnboundedSender<Deletion>,
    status: watch::Receiver<HostStatus>,
    stop: watch::Sender<bool>,
    ended: std_mpsc::Receiver<()>,
}

impl HostHandle {
    /// Hands over a plan; it replaces every earlier one. `revision` comes back in [`Report::Reconciled`].
    pub fn set_plan(&self, revision: u64, plan: Plan) {
        let plan = Arc::new(plan);
        self.wanted.send_modify(|wanted| {
            wanted.revision = revision;
            wanted.plan = Some(plan);
        });
    }

    /// Sets the node's addresses, by which the uplink is found if no name is configured.
    pub fn set_node_addresses(&self, addresses: Vec<IpAddr>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.node_addresses != addresses;
            wanted.node_addresses = addresses;
            changed
        });
    }

    /// Deletes an interface and calls `reply` on the task's thread, with `false` if there was none.
    pub fn delete_interface(&self, name: &str, reply: impl FnOnce(Result<bool, HostError>) + Send + 'static) {
        let deletion = Deletion {
            name: name.to_owned(),
            reply: Box::new(reply),
        };
        if let Err(mpsc::error::SendError(deletion)) = self.deletions.send(deletion) {
            (deletion.reply)(Err(HostError::Ended));
        }
    }

    /// Returns the task's last state.
    #[must_use]
    pub fn status(&self) -> HostStatus {
        self.status.borrow().clone()
    }

    /// Returns a receiver of the task's state, for threads that read it without the handle.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<HostStatus> {
        self.status.clone()
    }

    /// Ends the task: a running `nft` is killed, and the kernel's state stays as it is. Waits at most `within` and returns
    /// `false` if the task has not ended by then (a netlink request may wait for the kernel's lock).
    pub fn stop(self, within: Duration) -> bool {
        self.stop.send_replace(true);
        self.ended.recv_timeout(within) != Err(std_mpsc::RecvTimeoutError::Timeout)
    }
}

/// Starts the task in the calling thread's network namespace. It creates the host port's pair or takes it over and reserves
/// the ports; the function returns when that is done. `reports` is called on the task's thread and must not block.
///
/// # Errors
/// The kernel refuses, or an interface with one of the names is not heddle's.
pub fn start(
    config: HostConfig,
    reports: impl FnMut(Report) + Send + 'static,
) -> Result<(HostHandle, HostLink), HostError> {
    // The channels: plans, deletions and the end towards the task; state, start and end towards the caller.
    let (wanted_in, wanted) = watch::channel(Wanted::default());
    let (deletions_in, deletions) = mpsc::unbounded_channel();
    let (status_in, status) = watch::channel(HostStatus::default());
    let (stop_in, stop) = watch::channel(false);
    let (started_in, started) = std_mpsc::sync_channel(1);
    let (ended_in, ended) = std_mpsc::channel();
    let run = move || {
        // Dropped at the thread's end, also when it panics, which closes the channel.
        let _ended = ended_in;
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => {
                let _ = started_in.send(Err(HostError::thread(e)));
                return;
            }
        };
        runtime.block_on(async move {
            let task = match Task::open(config, wanted, status_in, Box::new(reports)) {
                Ok(task) => task,
                Err(e) => {
                    let _ = started_in.send(Err(e));
                    return;
                }
            };
            let _ = started_in.send(Ok(task.link()));
            let handle = task.netlink.clone();
            tokio::select! {
                () = stopped(stop) => {}
                // Both run on this thread, so a deletion is served while the task waits for `nft`.
                () = delete(handle, deletions) => {}
                () = task.run() => {}
            }
        });
    };
    thread::Builder::new()
        .name("host".to_owned())
        .spawn(run)
        .map_err(HostError::thread)?;
    // The task has created the host port when this message arrives.
    let link = started.recv().unwrap_or(Err(HostError::Ended))?;
    let handle = HostHandle {
        wanted: wanted_in,
        deletions: deletions_in,
        status,
        stop: stop_in,
        ended,
    };
    Ok((handle, link))
}

/// Returns when the task must end, also because its handle was dropped.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves deletions until the handle is dropped.
async fn delete(netlink: Handle, mut deletions: mpsc::UnboundedReceiver<Deletion>) {
    while let Some(Deletion { name, reply }) = deletions.recv().await {
        reply(links::delete(&netlink, &name));
    }
}

/// The task's state.
struct Task {
    config: HostConfig,
    netlink: Handle,
    port: HostPort,
    wanted: watch::Receiver<Wanted>,
    uplink: Option<Uplink>,
    uplink_was_reported: bool,
    /// The time at which the plan was applied only in part.
    failed_at: Option<Instant>,
    /// `true` while the pair is deleted and cannot be re-created.
    is_lost: bool,
    status: watch::Sender<HostStatus>,
    reports: Box<dyn FnMut(Report) + Send>,
}

impl Task {
    /// Creates the host port or takes it over, and reserves the ports.
    fn open(
        config: HostConfig,
        wanted: watch::Receiver<Wanted>,
        status: watch::Sender<HostStatus>,
        reports: Box<dyn FnMut(Report) + Send>,
    ) -> Result<Self, HostError> {
        let netlink = netlink::connect()?;
        let port = HostPort::open(netlink.clone(), config.queues, config.mtu, config.nft.clone())?;
        reserved::reserve(&config.state_dir, &config.reserved_ports)?;
        sysctl::warn_without_forwarding();
        let task = Self {
            config,
            netlink,
            port,
            wanted,
            uplink: None,
            uplink_was_reported: false,
            failed_at: None,
            is_lost: false,
            status,
            reports,
        };
        task.status.send_modify(|status| status.link = Some(task.link()));
        Ok(task)
    }

    /// Returns the pair of interfaces for reports.
    fn link(&self) -> HostLink {
        HostLink {
            mac: self.port.mac(),
            index: self.port.index(),
            peer_index: self.port.peer_index(),
        }
    }

    /// Applies plans and checks the interfaces until the handle is dropped.
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // The node's addresses may be new, and the uplink is found by them.
                    self.observe_uplink();
                    self.reconcile().await;
                }
                _ = tick.tick() => {
                    self.restore_pair().await;
                    self.observe_uplink();
                    if self.failed_at.is_some_and(|at| at.elapsed() >= RETRY_AFTER) {
                        self.reconcile().await;
                    }
                }
            }
        }
    }

    /// Brings the kernel's state to the newest plan and reports what failed.
    async fn reconcile(&mut self) {
        let (revision, plan) = {
            let wanted = self.wanted.borrow();
            let Some(plan) = &wanted.plan else { return };
            (wanted.revision, Arc::clone(plan))
        };
        if self.is_lost {
            return;
        }
        let failures = self.port.apply(&plan).await;
        let now = Instant::now();
        self.failed_at = (!failures.is_empty()).then_some(now);
        self.status.send_modify(|status| {
            status.revision = revision;
            status.failures = failures.iter().map(ToString::to_string).collect();
            if failures.is_empty() {
                status.verified_at = Some(now);
            }
        });
        (self.reports)(Report::Reconciled { revision, failures });
    }

    /// Re-creates the pair of interfaces if somebody has deleted it.
    async fn restore_pair(&mut self) {
        if self.port.exists() {
            return;
        }
        if !self.is_lost {
            tracing::error!(
                "interface {} was deleted by someone else; heddle re-creates it",
                INTERFACE
            );
        }
        match HostPort::open(
            self.netlink.clone(),
            self.config.queues,
            self.config.mtu,
            self.config.nft.clone(),
        ) {
            Ok(port) => {
                self.port = port;
                self.is_lost = false;
                let link = self.link();
                self.status.send_modify(|status| status.link = Some(link));
                (self.reports)(Report::Recreated(link));
                self.reconcile().await;
            }
            Err(e) => {
                self.status.send_modify(|status| status.link = None);
                if !std::mem::replace(&mut self.is_lost, true) {
                    (self.reports)(Report::Lost(e));
                }
            }
        }
    }

    /// Reads the uplink and reports it if it has changed.
    fn observe_uplink(&mut self) {
        match self.find_uplink() {
            Ok(found) if found == self.uplink && self.uplink_was_reported => {}
            Ok(found) => {
                self.uplink.clone_from(&found);
                self.uplink_was_reported = true;
                self.status.send_modify(|status| status.uplink.clone_from(&found));
                (self.reports)(Report::Uplink(found));
            }
            Err(e) => tracing::warn!("cannot read the uplink from the kernel: {e}"),
        }
    }

    /// Finds the uplink: the interface that was the uplink before, if it still exists, or else a new search.
    fn find_uplink(&self) -> Result<Option<Uplink>, HostError> {
        if let Some(known) = &self.uplink
            && let Some(uplink) = uplink::read(&self.netlink, known.index)?
        {
            return Ok(Some(uplink));
        }
        let addresses = self.wanted.borrow().node_addresses.clone();
        uplink::find(&self.netlink, self.config.uplink.as_deref(), &addresses)
    }
}
