//! The host task: a thread that runs every netlink request and every `nft` call of the agent.
//!
//! The control thread starts it, hands it the newest [`Plan`] and never waits for it. Outcomes come back as [`Report`]s, and
//! [`HostHandle::status`] reads the last state from any thread. Of the plans that arrive while an earlier one is being
//! applied, only the newest is applied next. A slow `nft` delays neither the deletion of an interface nor the task's end:
//! both are served while `nft` runs, and stopping kills it.
//!
//! Others may change or remove at any time what heddle has put into the kernel. The task therefore compares the kernel's state
//! with the plan after each notification of the kernel (`watch`) and every 30 seconds, and repairs and logs each
//! difference; it reads the sysctls every 5 seconds. Without a notification an idle node does no other work here. A difference that cannot be removed is tried again with growing pauses, and [`HostStatus::differences`] shows
//! it. The XDP programs of ports belong to the control thread, which re-attaches them at [`Report::ProgramsLost`]. It
//! closes the ports whose interfaces are gone at [`Report::LinksGone`].
//!
//! The underlay is followed on the same thread by a future of its own (`underlay_task`), so that a slow `nft` does not delay it either.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::due::Due;
use crate::error::HostError;
use crate::netlink::{self, Handle};
use crate::nft_program::Nft;
use crate::plan::Plan;
use crate::port::{Applied, HostPort};
use crate::report::{HostLink, HostStatus, PortLink, PortLinks, Report, Reporter};
use crate::underlay_task::{UnderlayInputs, UnderlayTask};
use crate::uplink::{self, Finder, Uplink};
use crate::watch::Watch;
use crate::well_known::INTERFACE;
use crate::{links, reserved, sysctl};

/// The interval at which the task reads the sysctls, because the kernel does not announce the changes of most of them. Each
/// reading costs about a millisecond of an idle node.
const SYSCTL_INTERVAL: Duration = Duration::from_secs(5);

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

/// The newest state that the control thread asks for.
#[derive(Debug, Clone, Default)]
struct Wanted {
    revision: u64,
    plan: Option<Arc<Plan>>,
    node_addresses: Vec<IpAddr>,
    ports: PortLinks,
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
    underlay: watch::Sender<UnderlayInputs>,
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
        self.underlay.send_if_modified(|inputs| {
            let changed = inputs.node_addresses != addresses;
            inputs.node_addresses.clone_from(&addresses);
            changed
        });
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.node_addresses != addresses;
            wanted.node_addresses = addresses;
            changed
        });
    }

    /// Sets the addresses of the other nodes, whose paths come back in [`Report::Underlay`].
    pub fn set_nodes(&self, nodes: BTreeSet<IpAddr>) {
        self.underlay.send_if_modified(|inputs| {
            let changed = inputs.nodes.as_deref() != Some(&nodes);
            inputs.nodes = Some(Arc::new(nodes));
            changed
        });
    }

    /// Sets the interfaces with open ports, which must be up and have the XDP program.
    pub fn set_ports(&self, ports: PortLinks) {
        self.wanted.send_modify(|wanted| wanted.ports = ports);
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
    // The channels: plans, inputs of the underlay, deletions and the end towards the task; state, start and end towards the caller.
    let (wanted_in, wanted) = watch::channel(Wanted::default());
    let (underlay_in, underlay) = watch::channel(UnderlayInputs::default());
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
            let uplink_name = config.uplink.clone();
            let reports = Reporter::new(reports);
            let task = match Task::open(config, wanted, status_in.clone(), reports.clone()) {
                Ok(task) => task,
                Err(e) => {
                    let _ = started_in.send(Err(e));
                    return;
                }
            };
            let _ = started_in.send(Ok(task.link()));
            let handle = task.netlink.clone();
            let underlay = UnderlayTask::new(handle.clone(), underlay, uplink_name, status_in, reports);
            let [port_notifications, underlay_notifications] = Watch::start();
            tokio::select! {
                () = stopped(stop) => {}
                // All run on this thread, so deletions and the underlay are served while the task waits for `nft`.
                () = delete(handle, deletions) => {}
                () = underlay.run(underlay_notifications) => {}
                () = task.run(port_notifications) => {}
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
        underlay: underlay_in,
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
    uplink_finder: Finder,
    uplink: Option<Uplink>,
    uplink_was_reported: bool,
    /// The addresses that were reported last.
    addresses: Option<BTreeSet<IpAddr>>,
    /// The plan that was compared last. A difference from the same plan was made by others.
    compared: Option<Arc<Plan>>,
    due: Due,
    /// `true` while the pair is deleted and cannot be re-created.
    is_lost: bool,
    status: watch::Sender<HostStatus>,
    reports: Reporter,
}

impl Task {
    /// Creates the host port or takes it over, and reserves the ports.
    fn open(
        config: HostConfig,
        wanted: watch::Receiver<Wanted>,
        status: watch::Sender<HostStatus>,
        reports: Reporter,
    ) -> Result<Self, HostError> {
        let netlink = netlink::connect()?;
        let port = HostPort::open(netlink.clone(), config.queues, config.mtu, config.nft.clone())?;
        reserved::reserve(&config.state_dir, &config.reserved_ports)?;
        let task = Self {
            uplink_finder: Finder::new(config.uplink.clone()),
            config,
            netlink,
            port,
            wanted,
            uplink: None,
            uplink_was_reported: false,
            addresses: None,
            compared: None,
            due: Due::new(),
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
    async fn run(mut self, mut notifications: Watch) {
        let mut sysctls = tokio::time::interval(SYSCTL_INTERVAL);
        sysctls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.due.next();
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // The node's addresses may be new, and the uplink is found by them.
                    self.observe_addresses_and_uplink();
                    self.due.retry_after = None;
                    self.reconcile(false).await;
                }
                announced = notifications.changed() => {
                    // Neighbors on other interfaces are verified all the time.
                    let mut neighbors = announced.network.neighbors.keys();
                    if announced.network.others || announced.rules || neighbors.any(|(index, _)| *index == self.port.index()) {
                        self.due.notify(announced.rules);
                    }
                }
                () = tokio::time::sleep_until(due.into()) => {
                    let is_periodic = due >= self.due.periodic;
                    self.restore_pair().await;
                    self.observe_addresses_and_uplink();
                    self.reconcile(is_periodic || self.due.rules_changed).await;
                }
                _ = sysctls.tick() => {
                    if self.has_other_sysctls() {
                        self.reconcile(false).await;
                    }
                }
            }
        }
    }

    /// Returns `true` if a sysctl has another value than the planned one.
    fn has_other_sysctls(&self) -> bool {
        sysctl::read_ends().is_ok_and(|values| values.iter().any(sysctl::SysctlValue::differs))
            || reserved::lacks_part_of(&self.config.reserved_ports).is_ok_and(|lacks| lacks)
    }

    /// Compares the kernel's state with the newest plan, removes the differences, and reports what failed. The nftables table is
    /// compared if `with_table` is `true` or the plan is new.
    async fn reconcile(&mut self, with_table: bool) {
        let (revision, plan, ports) = {
            let wanted = self.wanted.borrow_and_update();
            let plan = wanted.plan.clone();
            (wanted.revision, plan, wanted.ports.clone())
        };
        let began = Instant::now();
        let Some(plan) = plan.filter(|_| !self.is_lost) else {
            self.due.compared(began, self.is_lost);
            return;
        };
        let link = self.link();
        let mut applied = self.port.apply(&plan, with_table).await;
        match reserved::restore(&self.config.state_dir, &self.config.reserved_ports) {
            Ok(false) => {}
            restored => applied.step(restored.map(drop), || {
                "net.ipv4.ip_local_reserved_ports lacked ports that heddle uses: reserved again".to_owned()
            }),
        }
        let (lost, is_one_gone) = self.check_ports(&ports, &mut applied);
        // Differences from the plan that was in force already were made by others.
        let is_repair = self.compared.as_ref().is_some_and(|compared| *compared == plan);
        for line in &applied.changed {
            if is_repair {
                tracing::warn!("repaired: {line}");
            } else {
                tracing::debug!("{line}");
            }
        }
        let repaired = if is_repair { applied.changed.len() as u64 } else { 0 };
        self.compared = Some(plan);
        self.due.compared(began, !applied.failures.is_empty());
        let failures = applied.failures;
        let now_link = self.link();
        self.status.send_modify(|status| {
            status.link = Some(now_link);
            status.revision = revision;
            status.repaired += repaired;
            if failures.is_empty() {
                status.verified_at = Some(Instant::now());
            }
            status.differences = Some(failures.iter().map(ToString::to_string).collect());
        });
        if now_link != link {
            self.reports.send(Report::Changed(now_link));
        }
        if !lost.is_empty() {
            self.reports.send(Report::ProgramsLost(lost));
        }
        if is_one_gone {
            self.reports.send(Report::LinksGone);
        }
        self.reports.send(Report::Reconciled { revision, failures });
    }

    /// Sets interfaces of ports up that are down. Returns those without the XDP program, and `true` if one is gone. A missing
    /// interface is no difference: the controller closes its port.
    fn check_ports(&self, ports: &PortLinks, applied: &mut Applied) -> (Vec<PortLink>, bool) {
        let links = match self.netlink.links() {
            Ok(links) => links,
            Err(e) => {
                applied.failures.push(e.into());
                return (Vec::new(), false);
            }
        };
        let (mut lost, mut is_one_gone) = (Vec::new(), false);
        for port in &ports.links {
            let Some(link) = links
                .iter()
                .find(|link| link.index == port.index && link.name == port.name)
            else {
                is_one_gone = true;
                continue;
            };
            if !link.up {
                applied.step(self.netlink.set_up(link).map_err(HostError::from), || {
                    format!("interface {} was down: set up", link.name)
                });
            }
            if link.xdp_program != Some(ports.program) {
                applied.failures.push(HostError::NoProgram(link.name.clone()));
                lost.push(port.clone());
            }
        }
        (lost, is_one_gone)
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
                self.reports.send(Report::Recreated(link));
                self.compared = None;
                self.reconcile(false).await;
            }
            Err(e) => {
                self.status.send_modify(|status| {
                    status.link = None;
                    status.differences = Some(vec![e.to_string()]);
                });
                if !std::mem::replace(&mut self.is_lost, true) {
                    self.reports.send(Report::Lost(e));
                }
            }
        }
    }

    /// Reads the node's addresses and the uplink, and reports each of them if it has changed.
    fn observe_addresses_and_uplink(&mut self) {
        let held = match self.netlink.addresses() {
            Ok(held) => held,
            Err(e) => return tracing::warn!("cannot read the node's addresses from the kernel: {e}"),
        };
        let addresses: BTreeSet<IpAddr> = held
            .iter()
            .map(|address| address.address.addr())
            .filter(|address| uplink::can_be_reached(*address))
            .collect();
        if self.addresses.as_ref() != Some(&addresses) {
            self.addresses = Some(addresses.clone());
            self.reports.send(Report::Addresses(addresses));
        }
        let node_addresses = self.wanted.borrow().node_addresses.clone();
        let found = self.uplink_finder.find(&self.netlink, &node_addresses, &held);
        match found.map(|link| link.map(Uplink::from)) {
            Ok(found) if found == self.uplink && self.uplink_was_reported => {}
            Ok(found) => {
                self.uplink.clone_from(&found);
                self.uplink_was_reported = true;
                self.status.send_modify(|status| status.uplink.clone_from(&found));
                self.reports.send(Report::Uplink(found));
            }
            Err(e) => tracing::warn!("cannot read the uplink from the kernel: {e}"),
        }
    }
}
