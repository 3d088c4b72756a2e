//! `heddle status`: collects the agent's state.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use heddle_engine::{PortRole, PortTotals};
use heddle_io::{RingLevels, SegmentCounts};
use heddle_model::{Cluster, Kind, ObjectRef, Subject};
use heddle_port::{Holder, KernelStats, PortId};
use heddle_proto::Status;
use heddle_proto::status::{
    AgentStatus, CheckStatus, FlowStatus, FragmentStatus, FrameHolder, FrameStatus, HostPortStatus,
    PortRole as RoleName, PortStatus, ReasonDrops, RejectionStatus, RingStatus, SegmentStatus, SnapshotStatus,
    WorkerStatus,
};

use super::meters::{TurnSample, WorkerView};
use super::model::{ReadModel, lock};
use super::view::View;
use crate::cni_files::FilesState;
use crate::preflight::{Row, State};
use crate::workers::PortInfo;

impl ReadModel {
    /// Collects the agent's state.
    pub(super) fn read_status(&self) -> Status {
        let view = self.view();
        self.sum_denied(&view);
        // Each lock is held only for its list, never for two at a time.
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let (rejections, rejections_total) = {
            let cluster = self.cluster();
            let rejections = cluster.rejections().map(|r| rejection(&cluster, r)).collect();
            (rejections, cluster.rejected_total())
        };
        let (denied, denied_by_others) = {
            let sums = lock(&self.denied);
            (sums.all(), sums.others())
        };
        let holders = self.pool.store().holders();
        let all_ports = self.totals_of_all_ports();
        Status {
            agent: self.agent_status(),
            source: self.source_status(&view),
            snapshot: SnapshotStatus {
                version: view.version(),
                acknowledged,
                age_seconds: view.published_at.unwrap_or(self.started).elapsed().as_secs(),
                change_times: self.change_times.read(),
            },
            host: self.host_status(),
            checks: self.check_statuses(),
            uplink: self.uplink_status(&view),
            nodes: self.node_statuses(&view),
            workers: self.worker_statuses(&view, acknowledged),
            ports: view
                .ports
                .iter()
                .map(|(port, info)| self.port_status(&view, *port, info, &holders))
                .collect(),
            drops: drops_by_reason(&all_ports),
            drops_by_class: drops_by_class(&all_ports),
            tables: view.table_sizes(),
            flows: self.flow_status(),
            fragments: self.fragment_status(),
            frames: self.frame_status(&view, holders),
            rejections,
            rejections_total,
            attachments: view.attachments.clone(),
            state_not_kept: view.state_not_kept.clone(),
            denied,
            denied_by_others,
        }
    }

    /// Returns the process's own state.
    fn agent_status(&self) -> AgentStatus {
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.node.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            start: self.takeover.epoch.0,
            mode: "AF_XDP copy mode".to_owned(),
        }
    }

    /// Returns the state of the node's kernel state as the host task has found it.
    fn host_status(&self) -> HostPortStatus {
        let host = self.host.borrow().clone();
        let problem = host.problem();
        HostPortStatus {
            works: problem.is_none(),
            verified_seconds: host.verified_at.map(|at| at.elapsed().as_secs()),
            differences: host.differences.unwrap_or_else(|| problem.into_iter().collect()),
            repaired: host.repaired,
        }
    }

    /// Returns the rows of `heddle check` that others can change.
    fn check_statuses(&self) -> Vec<CheckStatus> {
        let status = |row: Row| CheckStatus {
            what: row.what,
            ok: row.state == State::Ok,
            value: row.value,
            advice: row.advice,
        };
        let mut rows: Vec<CheckStatus> = self.checks.get().into_iter().map(status).collect();
        if let Some(files) = self.cni_files.get() {
            let (ok, value) = match &*files.borrow() {
                FilesState::Waiting => (true, "wait until ADD can be served".to_owned()),
                FilesState::Installed => (true, "installed".to_owned()),
                FilesState::Failed(why) => (false, why.clone()),
            };
            rows.push(CheckStatus {
                what: "CNI files".to_owned(),
                ok,
                value,
                advice: String::new(),
            });
        }
        rows
    }

    /// Returns the state of each worker.
    fn worker_statuses(&self, view: &View, acknowledged: u64) -> Vec<WorkerStatus> {
        let status = |(worker, sample): (&WorkerView, &TurnSample)| {
            let totals = worker.counters.totals();
            let id = worker.id;
            WorkerStatus {
                worker: id.0,
                core: u32::try_from(worker.core).ok(),
                turns: totals.turns,
                busy_turns: totals.busy_turns,
                sleeps: totals.sleeps,
                wakeups: totals.wakeups,
                busy_ratio: sample.ratio,
                bursts: (0u32..).map(|class| 1 << class).zip(totals.burst_sizes).collect(),
                snapshot: acknowledged,
                ports: u32::try_from(view.ports.values().filter(|info| info.worker == id).count()).unwrap_or(u32::MAX),
                handed_over: totals.handed_over,
            }
        };
        self.workers
            .iter()
            .zip(&lock(&self.meters).samples)
            .map(status)
            .collect()
    }

    /// Returns the counters, rings and frames of a port.
    fn port_status(&self, view: &View, port: PortId, info: &PortInfo, holders: &BTreeMap<Holder, u32>) -> PortStatus {
        let totals = info.since_opened(self.totals(port));
        let attachment = match info.role {
            PortRole::Pod(id) => view.attachment(id),
            PortRole::Host | PortRole::Uplink => None,
        };
        let observed = self.observers.view(port);
        PortStatus {
            port: port.0,
            name: view.port_name(info.role),
            role: match info.role {
                PortRole::Pod(_) => RoleName::Pod,
                PortRole::Host => RoleName::Host,
                PortRole::Uplink => RoleName::Uplink,
            },
            pod: attachment.and_then(|attachment| attachment.pod.clone()),
            interface: info.ifname.clone(),
            queue: info.queue,
            xdp_mode: info.mode.to_string(),
            worker: info.worker.0,
            rx_packets: totals.rx_packets,
            rx_bytes: totals.rx_bytes,
            tx_packets: totals.tx_packets,
            tx_bytes: totals.tx_bytes,
            forwarded: totals.forwarded,
            fragments: totals.fragments,
            fragments_lost: totals.fragments_lost,
            answered: totals.answered.iter().sum(),
            absorbed: totals.absorbed.iter().sum(),
            dropped: totals
                .drops()
                .map(|(reason, n)| (reason.as_str().to_owned(), n))
                .collect(),
            xsk: observed
                .and_then(|port| port.kernel)
                .map(kernel_counters)
                .unwrap_or_default(),
            segments: observed
                .and_then(|port| port.segments)
                .map(segments)
                .unwrap_or_default(),
            rings: observed.map(|port| rings(port.rings)).unwrap_or_default(),
            frames: holders.get(&Holder::Port(port)).copied().unwrap_or(0),
        }
    }

    /// Returns the counters of all ports since the agent's start, including ports that are closed now.
    fn totals_of_all_ports(&self) -> PortTotals {
        let mut sum = PortTotals::default();
        for worker in &self.workers {
            let ports = u16::try_from(worker.counters.ports()).unwrap_or(u16::MAX);
            for port in 0..ports {
                sum += &worker.counters.port_totals(PortId(port));
            }
        }
        sum
    }

    /// Returns the counters of the flow table.
    fn flow_status(&self) -> FlowStatus {
        let stats = self.flows.stats();
        let takeover = &self.takeover;
        // Each connection has two entries, one for each direction.
        FlowStatus {
            used: u64::from(stats.used) * 2,
            capacity: u64::from(stats.capacity) * 2,
            inserted: stats.inserted * 2,
            expired: stats.expired * 2,
            refused_full: stats.refused_full,
            refused_quota: stats.refused_quota,
            displaced: stats.displaced,
            taken_over: u64::from(takeover.entries_kept) * 2,
            discarded: u64::from(takeover.discarded_torn + takeover.discarded_orphans) * 2,
        }
    }

    /// Returns the counters of fragments, summed over all workers.
    fn fragment_status(&self) -> FragmentStatus {
        let workers = &self.workers;
        let limit = |each: u16| u64::from(each) * workers.len() as u64;
        let zero = FragmentStatus {
            datagrams_most: limit(self.settings.fragments.datagrams),
            held_frames_most: limit(self.settings.fragments.held_frames),
            ..FragmentStatus::default()
        };
        workers.iter().fold(zero, |mut sum, worker| {
            let one = worker.counters.totals().fragments;
            sum.first += one.first;
            sum.followed += one.followed;
            sum.waited += one.waited;
            sum.datagrams += one.datagrams;
            sum.held_frames += one.held_frames;
            sum
        })
    }

    /// Returns the number of frames that each holder has.
    fn frame_status(&self, view: &View, holders: BTreeMap<Holder, u32>) -> FrameStatus {
        let config = &self.memory;
        let named = |(holder, frames): (Holder, u32)| {
            let holder = match holder {
                Holder::Shared => "shared pool".to_owned(),
                Holder::Pool(worker) => format!("pool of worker {worker}"),
                Holder::Worker(worker) => format!("worker {worker}"),
                Holder::Port(port) => match view.ports.get(&port) {
                    Some(info) => format!("port {port} ({})", view.port_name(info.role)),
                    None => format!("port {port}"),
                },
                Holder::Control => "control".to_owned(),
            };
            FrameHolder { holder, frames }
        };
        FrameStatus {
            total: config.frames,
            frame_size: config.frame_size,
            max_pods: config.max_pods,
            holders: holders.into_iter().map(named).collect(),
        }
    }
}

/// Returns the counters of a socket that are not zero, by the kernel's names (struct xdp_statistics in
/// include/uapi/linux/if_xdp.h).
fn kernel_counters(stats: KernelStats) -> BTreeMap<String, u64> {
    [
        ("rx_dropped", stats.rx_dropped),
        ("rx_invalid_descs", stats.rx_invalid_descs),
        ("tx_invalid_descs", stats.tx_invalid_descs),
        ("rx_ring_full", stats.rx_ring_full),
        ("rx_fill_ring_empty_descs", stats.rx_fill_ring_empty_descs),
        ("tx_ring_empty_descs", stats.tx_ring_empty_descs),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .map(|(name, n)| (name.to_owned(), n))
    .collect()
}

/// Returns the number of drops by reason, with the reason's class; only reasons that occurred.
fn drops_by_reason(totals: &PortTotals) -> Vec<ReasonDrops> {
    totals
        .drops()
        .map(|(reason, packets)| ReasonDrops {
            reason: reason.as_str().to_owned(),
            class: reason.class().as_str().to_owned(),
            packets,
        })
        .collect()
}

/// Returns the number of drops by class; only classes that occurred.
fn drops_by_class(totals: &PortTotals) -> BTreeMap<String, u64> {
    totals
        .drops_by_class()
        .map(|(class, packets)| (class.as_str().to_owned(), packets))
        .collect()
}

/// Converts the fill levels of a port's rings.
fn rings(levels: RingLevels) -> RingStatus {
    RingStatus {
        rx: levels.rx,
        fill: levels.fill,
        tx: levels.tx,
        completion: levels.completion,
    }
}

/// Converts the counts of large segments.
fn segments(counts: SegmentCounts) -> SegmentStatus {
    SegmentStatus {
        sent: counts.sent,
        refused: counts.refused,
        invalid: counts.invalid,
    }
}

/// Converts a rejection.
fn rejection(cluster: &Cluster, rejection: &heddle_model::Rejection) -> RejectionStatus {
    let origin = match rejection.line {
        Some(line) => format!("{}:{line}", rejection.origin),
        None => rejection.origin.to_string(),
    };
    let value = if rejection.value.is_empty() {
        String::new()
    } else {
        format!("{}: ", rejection.value)
    };
    RejectionStatus {
        origin,
        object: rejection.subject.to_string(),
        field: rejection.field.clone(),
        message: format!("{value}{}", rejection.message),
        last_good_serves: match &rejection.subject {
            Subject::Object(object) => has_good_version(cluster, object),
            Subject::Document(_) | Subject::Source => false,
        },
    }
}

/// Returns `true` if the cluster has a good version of the object.
fn has_good_version(cluster: &Cluster, object: &ObjectRef) -> bool {
    let key = &object.key;
    match object.kind {
        Kind::Node => cluster.node(&key.name).is_some(),
        Kind::ServiceCidr => cluster.service_cidrs().any(|range| range.name == key.name),
        Kind::Namespace => cluster.namespace(&key.name).is_some(),
        Kind::Pod => cluster.pod(key).is_some(),
        Kind::Service => cluster.service(key).is_some(),
        Kind::EndpointSlice => cluster.slice(key).is_some(),
        Kind::NetworkPolicy => cluster.policy(key).is_some_and(|policy| !policy.refused),
        Kind::ClusterNetworkPolicy => cluster.cluster_policy(&key.name).is_some_and(|policy| !policy.refused),
    }
}
