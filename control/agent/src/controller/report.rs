//! The agent's state as `heddle status` shows it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use heddle_engine::PortRole;
use heddle_io::RingLevels;
use heddle_model::{Cluster, Kind, ObjectRef, Subject};
use heddle_port::{Holder, KernelStats, PortId};
use heddle_proto::Status;
use heddle_proto::status::{
    AgentStatus, FlowStatus, FragmentStatus, FrameHolder, FrameStatus, PortRole as RoleName, PortStatus,
    RejectionStatus, RingStatus, SnapshotStatus, SourceStatus, WorkerStatus,
};

use super::Controller;
use crate::workers::{PortInfo, Workers};

/// Turns of each worker at the last looks, for the share of busy ones.
#[derive(Debug)]
pub(super) struct Meters {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    turns: u64,
    busy: u64,
    /// Of the second before the last look.
    ratio: f64,
}

impl Meters {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            samples: vec![Sample::default(); workers],
        }
    }

    /// Once a tick.
    pub(super) fn sample(&mut self, workers: &Workers) {
        for (sample, worker) in self.samples.iter_mut().zip(workers.threads()) {
            let now = worker.handle().counters().totals();
            let (turns, busy) = (now.turns - sample.turns, now.busy_turns - sample.busy);
            let ratio = if turns == 0 { 0.0 } else { busy as f64 / turns as f64 };
            *sample = Sample {
                turns: now.turns,
                busy: now.busy_turns,
                ratio,
            };
        }
    }
}

impl Controller {
    pub(super) fn status(&mut self) -> Status {
        self.sum_denied();
        let acknowledged = self.workers.acknowledged();
        Status {
            agent: self.agent_status(),
            source: self.source_status(),
            snapshot: SnapshotStatus {
                version: self.workers.published(),
                acknowledged,
                age_seconds: self.published_at.elapsed().as_secs(),
            },
            workers: self.worker_statuses(acknowledged),
            ports: self
                .workers
                .ports()
                .map(|(port, info)| self.port_status(port, info))
                .collect(),
            tables: self.table_sizes(),
            flows: self.flow_status(),
            fragments: self.fragment_status(),
            frames: self.frame_status(),
            rejections: self.cluster.rejections().map(|r| rejection(&self.cluster, r)).collect(),
            rejections_total: self.cluster.rejected_total(),
            attachments: self.store.all().iter().map(|record| self.describe(record)).collect(),
            denied: self.denied.all(),
            denied_by_others: self.denied.others(),
        }
    }

    fn agent_status(&self) -> AgentStatus {
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.node.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            start: self.takeover.epoch.0,
            mode: "AF_XDP copy mode".to_owned(),
            uplink: None,
        }
    }

    fn source_status(&self) -> SourceStatus {
        let seconds = |since: Instant| since.elapsed().as_secs();
        SourceStatus {
            kind: "manifests".to_owned(),
            from: self.settings.manifests.display().to_string(),
            synced_seconds: self.synced_at.map(seconds),
            // A folder is never away without saying so.
            age_seconds: Duration::ZERO.as_secs(),
            objects: Kind::ALL
                .iter()
                .map(|kind| (kind.to_string(), self.cluster.count(*kind) as u64))
                .collect(),
        }
    }

    fn worker_statuses(&self, acknowledged: u64) -> Vec<WorkerStatus> {
        let status = |(worker, sample): (&crate::workers::WorkerThread, &Sample)| {
            let totals = worker.handle().counters().totals();
            let id = worker.number();
            WorkerStatus {
                worker: id.0,
                core: u32::try_from(worker.core()).ok(),
                turns: totals.turns,
                busy_turns: totals.busy_turns,
                sleeps: totals.sleeps,
                wakeups: totals.wakeups,
                busy_ratio: sample.ratio,
                bursts: (0u32..).map(|class| 1 << class).zip(totals.burst_sizes).collect(),
                snapshot: acknowledged,
                ports: u32::try_from(self.workers.ports().filter(|(_, info)| info.worker == id).count())
                    .unwrap_or(u32::MAX),
                handed_over: totals.handed_over,
            }
        };
        self.workers
            .threads()
            .iter()
            .zip(&self.meters.samples)
            .map(status)
            .collect()
    }

    fn port_status(&self, port: PortId, info: &PortInfo) -> PortStatus {
        let totals = info.since_opened(self.workers.totals(port));
        let record = match info.role {
            PortRole::Pod(id) => self.store.by_id(id.0),
            PortRole::Host => None,
        };
        let view = self.workers.view(port);
        PortStatus {
            port: port.0,
            name: self.port_name(info.role),
            role: match info.role {
                PortRole::Pod(_) => RoleName::Pod,
                PortRole::Host => RoleName::Host,
            },
            pod: record.and_then(|record| record.pod.clone()),
            interface: info.ifname.clone(),
            queue: info.queue,
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
            xsk: view
                .and_then(|view| view.kernel)
                .map(kernel_counters)
                .unwrap_or_default(),
            rings: view.map(|view| rings(view.rings)).unwrap_or_default(),
            frames: self
                .workers
                .pool()
                .store()
                .holders()
                .get(&Holder::Port(port))
                .copied()
                .unwrap_or(0),
        }
    }

    pub(super) fn port_name(&self, role: PortRole) -> String {
        match role {
            PortRole::Host => "host".to_owned(),
            PortRole::Pod(id) => match self.store.by_id(id.0) {
                Some(record) if record.pod.is_some() => format!("pod:{}", record.name()),
                Some(record) => format!("container:{}", record.container),
                None => format!("attachment {}", id.0),
            },
        }
    }

    fn table_sizes(&self) -> BTreeMap<String, u64> {
        let sizes = self
            .workers
            .newest()
            .map(|snapshot| snapshot.sizes())
            .unwrap_or_default();
        let compiled = self
            .compiler
            .as_ref()
            .map_or((0, 0), |c| (c.identity_count(), c.policy_count()));
        let backends = self
            .workers
            .newest()
            .map_or(0, |s| s.frontends().map(|f| f.backends.list().len()).sum());
        [
            ("endpoints", sizes.endpoints),
            ("addresses", sizes.addresses),
            ("policy-cidrs", sizes.policy_cidrs),
            ("frontends", sizes.frontends),
            ("service-addresses", sizes.service_addresses),
            ("backends", backends),
            ("identities", compiled.0),
            ("policies", compiled.1),
        ]
        .into_iter()
        .map(|(name, n)| (name.to_owned(), n as u64))
        .collect()
    }

    fn flow_status(&self) -> FlowStatus {
        let stats = self.workers.flows().stats();
        let takeover = &self.takeover;
        // Each connection has two entries, one for each direction.
        FlowStatus {
            used: u64::from(stats.used) * 2,
            capacity: u64::from(stats.capacity) * 2,
            inserted: stats.inserted * 2,
            expired: stats.expired * 2,
            refused_full: stats.refused_full,
            refused_quota: stats.refused_quota,
            taken_over: u64::from(takeover.entries_kept) * 2,
            discarded: u64::from(takeover.discarded_torn + takeover.discarded_orphans) * 2,
        }
    }

    fn fragment_status(&self) -> FragmentStatus {
        let workers = self.workers.threads();
        let most = |each: u16| u64::from(each) * workers.len() as u64;
        let none = FragmentStatus {
            datagrams_most: most(self.settings.fragments.datagrams),
            held_frames_most: most(self.settings.fragments.held_frames),
            ..FragmentStatus::default()
        };
        workers.iter().fold(none, |mut sum, worker| {
            let one = worker.handle().counters().totals().fragments;
            sum.first += one.first;
            sum.followed += one.followed;
            sum.waited += one.waited;
            sum.datagrams += one.datagrams;
            sum.held_frames += one.held_frames;
            sum
        })
    }

    fn frame_status(&self) -> FrameStatus {
        let config = self.workers.config();
        let holders = self.workers.pool().store().holders();
        let named = |(holder, frames): (Holder, u32)| {
            let holder = match holder {
                Holder::Shared => "shared pool".to_owned(),
                Holder::Pool(worker) => format!("pool of worker {worker}"),
                Holder::Worker(worker) => format!("worker {worker}"),
                Holder::Port(port) => match self.workers.ports().find(|(number, _)| *number == port) {
                    Some((_, info)) => format!("port {port} ({})", self.port_name(info.role)),
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

/// The kernel's names (struct xdp_statistics in include/uapi/linux/if_xdp.h), those that are not zero.
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

fn rings(levels: RingLevels) -> RingStatus {
    RingStatus {
        rx: levels.rx,
        fill: levels.fill,
        tx: levels.tx,
        completion: levels.completion,
    }
}

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
            Subject::Object(object) => is_there(cluster, object),
            Subject::Document(_) | Subject::Source => false,
        },
    }
}

/// Whether a good version of the object is in the cluster's state.
fn is_there(cluster: &Cluster, object: &ObjectRef) -> bool {
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
