//! The read model's state, and the controller's side of it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime};

use heddle_config::Settings;
use heddle_engine::PortTotals;
use heddle_flow::{FlowTable, Takeover};
use heddle_host::HostStatus;
use heddle_io::{PortObservers, XdpConfig};
use heddle_model::Cluster;
use heddle_port::{PortId, SharedPool};
use heddle_source::kube::{Health, Reporter};
use heddle_source::saved::SavedCluster;
use tokio::sync::watch;

use super::change_times::Histogram;
use super::denied::DeniedSums;
use super::meters::{Meters, WorkerView};
use super::view::View;
use crate::cni_files::FilesState;
use crate::preflight::CheckRows;
use crate::workers::{WorkerThread, Workers};

/// The cluster's objects. The controller writes, the read model reads.
pub type SharedCluster = Arc<RwLock<Cluster>>;

/// The API server that is followed, as readers see it.
pub(super) struct ApiServerView {
    /// The state of each kind.
    pub(super) health: Health,
    /// The writes to it.
    pub(super) reporter: Reporter,
}

/// The read model. The controller updates it, and threads of the operator's socket read it.
pub struct ReadModel {
    pub(super) settings: Settings,
    /// The API server that is followed; unset for a folder.
    pub(super) api_server: OnceLock<ApiServerView>,
    pub(super) takeover: Takeover,
    pub(super) started: Instant,
    cluster: SharedCluster,
    /// The host task's last state.
    pub(super) host: watch::Receiver<HostStatus>,
    /// The reason for which ADD cannot be served now.
    pub(super) can_add: watch::Sender<Result<(), String>>,
    /// The state of the CNI plugin's files; unset if the administrator installs them.
    pub(super) cni_files: OnceLock<watch::Receiver<FilesState>>,
    /// The newest rows of `heddle check`.
    pub(super) checks: CheckRows,
    pub(super) flows: Arc<FlowTable>,
    pub(super) pool: SharedPool,
    pub(super) memory: XdpConfig,
    pub(super) observers: PortObservers,
    pub(super) workers: Vec<WorkerView>,
    /// The newest view. The lock is held only while the pointer is copied.
    view: RwLock<Arc<View>>,
    /// The version of the tables that every worker has taken.
    pub(super) acknowledged: AtomicU64,
    pub(super) change_times: Histogram,
    pub(super) denied: Mutex<DeniedSums>,
    pub(super) meters: Mutex<Meters>,
    /// A random number that identifies this process in cursors.
    pub(super) instance: u64,
}

impl ReadModel {
    /// Creates the read model of an agent that has just started.
    pub(crate) fn new(
        settings: Settings,
        takeover: Takeover,
        cluster: SharedCluster,
        host: watch::Receiver<HostStatus>,
        workers: &Workers,
    ) -> Self {
        let view = |worker: &WorkerThread| WorkerView {
            id: worker.id(),
            core: worker.core(),
            counters: Arc::clone(worker.handle().counters()),
        };
        Self {
            settings,
            api_server: OnceLock::new(),
            takeover,
            started: Instant::now(),
            cluster,
            host,
            can_add: watch::Sender::new(Err("the agent has just started".to_owned())),
            cni_files: OnceLock::new(),
            checks: CheckRows::default(),
            flows: Arc::clone(workers.flows()),
            pool: workers.pool().clone(),
            memory: *workers.config(),
            observers: workers.observers(),
            workers: workers.threads().iter().map(view).collect(),
            view: RwLock::default(),
            acknowledged: AtomicU64::new(0),
            change_times: Histogram::default(),
            denied: Mutex::default(),
            meters: Mutex::new(Meters::new(workers.threads().len())),
            // 53 bits: JSON readers that store numbers as 64-bit floats keep it exactly.
            instance: RandomState::new().hash_one(std::process::id()) >> 11,
        }
    }

    /// Returns the rows of `heddle check`, which a thread of `run` updates.
    #[must_use]
    pub const fn checks(&self) -> &CheckRows {
        &self.checks
    }

    /// Sets the API server that is followed, whose state `status` shows.
    pub(crate) fn show_api_server(&self, health: Health, reporter: Reporter) {
        // Called once, before the sockets are served.
        let _ = self.api_server.set(ApiServerView { health, reporter });
    }

    /// Sets the reason for which ADD cannot be served. The controller calls it once a second and when the agent is ready.
    pub(crate) fn set_can_add(&self, can_add: Result<(), String>) {
        self.can_add.send_if_modified(|now| {
            let is_changed = *now != can_add;
            *now = can_add;
            is_changed
        });
    }

    /// Returns the reason for which ADD cannot be served, to wait for its end.
    pub(crate) fn watch_can_add(&self) -> watch::Receiver<Result<(), String>> {
        self.can_add.subscribe()
    }

    /// Sets the state of the CNI plugin's files, which `status` and `/readyz` show.
    pub(crate) fn show_cni_files(&self, state: watch::Receiver<FilesState>) {
        // Called once, before the sockets are served.
        let _ = self.cni_files.set(state);
    }

    /// Replaces the view. The controller calls it.
    pub(crate) fn update(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Sets the version that every worker has taken. The controller calls it.
    pub(crate) fn set_acknowledged(&self, version: u64) {
        self.acknowledged.store(version, Ordering::Relaxed);
    }

    /// Adds the time that a change took until every worker had it. The controller calls it.
    pub(crate) fn add_change_time(&self, time: Duration) {
        self.change_times.add(time);
    }

    /// Returns the cluster for the state directory, with the time up to which it is known to be the API server's.
    pub(crate) fn saved_cluster(&self) -> SavedCluster {
        let as_of = self
            .api_server
            .get()
            .map(|api_server| api_server.health.current_as_of());
        SavedCluster::of(&self.cluster(), as_of.unwrap_or_else(SystemTime::now))
    }

    /// Samples the counters that readers see as rates and sums. The controller calls it once a second: more often than
    /// a worker may reuse a counter of denied packets for another rule.
    pub(crate) fn sample(&self) {
        lock(&self.meters).sample(&self.workers);
        self.sum_denied(&self.view());
    }

    /// Adds the packets that policies have denied since the last call to their sums.
    pub(super) fn sum_denied(&self, view: &View) {
        lock(&self.denied).add_new_counts(view, &self.workers);
    }

    /// Returns the newest view.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the cluster for one look-up or one list.
    pub(super) fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the counters of a port, summed over all workers.
    pub(super) fn totals(&self, port: PortId) -> PortTotals {
        let mut sum = PortTotals::default();
        for worker in &self.workers {
            sum += &worker.counters.port_totals(port);
        }
        sum
    }
}

/// Locks a mutex, also after a reader has panicked, because the values behind these mutexes are valid at any time.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
