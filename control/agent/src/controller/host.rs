//! The controller's side of the host task: the newest plan for the node's kernel state, and the task's reports.
//!
//! No method waits for the kernel. The task (`heddle_host::task`) runs netlink and `nft` on a thread of its own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use heddle_host::underlay::Underlay;
use heddle_host::uplink::Uplink;
use heddle_host::{HostConfig, HostError, HostHandle, HostLink, HostStatus, Nft, Plan, PortLink, PortLinks, Report};
use heddle_wire::Ip;
use tokio::sync::watch;

use heddle_config::Settings;

/// The MTU that is assumed while the uplink is unknown: Ethernet's.
pub(super) const USUAL_MTU: u16 = 1500;
/// The longest wait for the end of the host task. A netlink request may wait for the kernel's lock.
const STOPS_WITHIN: Duration = Duration::from_secs(1);

/// The handle of the host task, the plan handed to it last, and its reports.
pub(super) struct HostReconciler {
    task: HostHandle,
    reports: Receiver<Report>,
    link: HostLink,
    uplink: Option<Uplink>,
    /// The network between the nodes.
    underlay: Arc<Underlay>,
    /// The addresses of the node's interfaces.
    addresses: BTreeSet<IpAddr>,
    plan: Option<Plan>,
    ports: PortLinks,
    /// The revision of `plan`.
    revision: u64,
    /// The newest revision that the task has tried to apply.
    reconciled: u64,
    /// The failures of the last attempt, so that each is logged once.
    known_failures: BTreeSet<String>,
}

/// The consequence of a report for the tables and the workers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HostChange {
    /// The tables stay as they are.
    Nothing,
    /// The uplink, and with it the MTU of paths, has changed.
    Uplink,
    /// The addresses of the node's interfaces have changed.
    Addresses,
    /// The routes to other nodes, the uplink's neighbors, or the uplink itself have changed.
    Underlay,
    /// The host port has another MAC, which the tables need.
    Link,
    /// Interfaces have lost their XDP program, which is attached again.
    ProgramsLost(Vec<PortLink>),
    /// Interfaces of ports are gone.
    LinksGone,
    /// The host port is another pair of interfaces: its queues are opened again.
    Recreated,
}

impl HostReconciler {
    /// Starts the host task, which creates the host port or takes it over, in the calling thread's network namespace.
    pub(super) fn start(settings: &Settings) -> Result<Self, HostError> {
        let (reports_in, reports) = unbounded();
        let config = HostConfig {
            queues: u32::try_from(settings.worker_cores.len()).unwrap_or(u32::MAX),
            mtu: USUAL_MTU.into(),
            state_dir: settings.state_dir.clone(),
            reserved_ports: settings.reserved_ports.ports(),
            uplink: settings.uplink.clone(),
            nft: Nft::default(),
        };
        // A controller that has ended reads no reports.
        let (task, link) = heddle_host::start(config, move |report| drop(reports_in.send(report)))?;
        Ok(Self {
            task,
            reports,
            link,
            uplink: None,
            underlay: Arc::default(),
            addresses: BTreeSet::new(),
            plan: None,
            ports: PortLinks::default(),
            revision: 0,
            reconciled: 0,
            known_failures: BTreeSet::new(),
        })
    }

    /// Returns the task's reports, for the controller's select.
    pub(super) const fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }

    /// Returns the host port's pair of interfaces.
    pub(super) const fn link(&self) -> HostLink {
        self.link
    }

    /// Returns the uplink; `None` while it is unknown.
    pub(super) const fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// Returns the network between the nodes, as the kernel has it.
    pub(super) const fn underlay(&self) -> &Arc<Underlay> {
        &self.underlay
    }

    /// Sets the InternalIPs of the other nodes, whose routes and neighbors the task follows.
    pub(super) fn set_nodes(&self, nodes: BTreeSet<IpAddr>) {
        self.task.set_nodes(nodes);
    }

    /// Returns the addresses of the node's interfaces.
    pub(super) fn addresses(&self) -> BTreeSet<Ip> {
        self.addresses.iter().map(|address| Ip::from(*address)).collect()
    }

    /// Returns `true` if the task has tried to apply the newest plan.
    pub(super) const fn has_tried_newest_plan(&self) -> bool {
        self.reconciled >= self.revision
    }

    /// Sets the node's addresses, by which the task finds the uplink.
    pub(super) fn set_node_addresses(&self, addresses: Vec<IpAddr>) {
        self.task.set_node_addresses(addresses);
    }

    /// Hands a plan to the task if it differs from the one before.
    pub(super) fn set_plan(&mut self, plan: Plan) {
        if self.plan.as_ref() != Some(&plan) {
            self.revision += 1;
            self.task.set_plan(self.revision, plan.clone());
            self.plan = Some(plan);
        }
    }

    /// Sets the interfaces with open ports, which the task keeps up and looks at for their XDP program.
    pub(super) fn set_ports(&mut self, ports: PortLinks) {
        if self.ports != ports {
            self.task.set_ports(ports.clone());
            self.ports = ports;
        }
    }

    /// Returns the reason why the node's kernel state does not do what it should; `None` if it works.
    pub(super) fn problem(&self) -> Option<String> {
        self.task.status().problem()
    }

    /// Returns a receiver of the task's state for the read model.
    pub(super) fn watch_status(&self) -> watch::Receiver<HostStatus> {
        self.task.watch_status()
    }

    /// Deletes an interface and calls `reply` on the task's thread.
    pub(super) fn delete_interface(&self, name: &str, reply: impl FnOnce(Result<bool, HostError>) + Send + 'static) {
        self.task.delete_interface(name, reply);
    }

    /// Records and logs a report, and returns its consequence.
    pub(super) fn record(&mut self, report: Report) -> HostChange {
        match report {
            Report::Reconciled { revision, failures } => {
                self.reconciled = self.reconciled.max(revision);
                let failures: BTreeSet<String> = failures.iter().map(ToString::to_string).collect();
                for new in failures.difference(&self.known_failures) {
                    tracing::error!("cannot bring the host port to its plan: {new}");
                }
                for gone in self.known_failures.difference(&failures) {
                    tracing::info!("the host port is as planned again, after: {gone}");
                }
                self.known_failures = failures;
                HostChange::Nothing
            }
            Report::Recreated(link) => {
                self.link = link;
                HostChange::Recreated
            }
            Report::Changed(link) => {
                self.link = link;
                HostChange::Link
            }
            Report::ProgramsLost(links) => HostChange::ProgramsLost(links),
            Report::LinksGone => HostChange::LinksGone,
            Report::Lost(error) => {
                tracing::error!("the host port cannot be re-created: {error}; heddle tries again, at least every 30 s");
                HostChange::Nothing
            }
            Report::Addresses(addresses) => {
                self.addresses = addresses;
                HostChange::Addresses
            }
            Report::Uplink(found) => {
                match &found {
                    Some(uplink) => tracing::info!(uplink = uplink.name, mtu = uplink.mtu, "found the uplink"),
                    None => tracing::debug!("the uplink is unknown: an MTU of {USUAL_MTU} is assumed"),
                }
                self.uplink = found;
                HostChange::Uplink
            }
            Report::Underlay(underlay) => {
                self.underlay = underlay;
                HostChange::Underlay
            }
        }
    }

    /// Logs once, when the objects are known, that no interface is the uplink.
    pub(super) fn warn_without_uplink(&self) {
        if self.uplink.is_none() {
            tracing::warn!(
                "no interface has the name in key uplink or the node's InternalIP, so the uplink is unknown: an MTU of \
                 {USUAL_MTU} is assumed"
            );
        }
    }

    /// Stops the task. The kernel's state stays for the next start.
    pub(super) fn stop(self) {
        if !self.task.stop(STOPS_WITHIN) {
            tracing::warn!("the host task has not ended within {} s", STOPS_WITHIN.as_secs());
        }
    }
}
