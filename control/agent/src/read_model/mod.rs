//! The read model: what `heddle status`, `drops` and `flows` show, read without asking the controller.
//!
//! The controller updates [`ReadModel`] after each reconciliation; readers take the newest `View` and read counters, the
//! flow table and the cluster beside it. A reader holds a lock for one look-up or one list and never while it waits, so a
//! stuck reader delays nobody.

mod denied;
mod drops;
mod flows;
mod names;
mod status;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use heddle_engine::{PortTotals, WorkerCounters};
use heddle_flow::{FlowTable, Takeover};
use heddle_io::{PortObservers, XdpConfig};
use heddle_model::Cluster;
use heddle_port::{PortId, SharedPool};
use heddle_proto::{Attachment, Drops, DropsRequest, Flows, FlowsRequest, QueryError, Status};
use heddle_tables::{EndpointId, Snapshot, WorkerId};

use crate::workers::{PortInfo, Workers};
use denied::DeniedSums;
use heddle_config::Settings;
use status::Meters;

/// The cluster's objects: the controller writes, the read model reads.
pub type SharedCluster = Arc<RwLock<Cluster>>;

/// Answers the queries of the operator's socket.
pub trait Queries: Send + Sync + 'static {
    /// Returns the agent's state.
    ///
    /// # Errors
    /// The query cannot be answered.
    fn status(&self) -> Result<Status, QueryError>;

    /// Returns the packets that were dropped last.
    ///
    /// # Errors
    /// The query names something that does not exist.
    fn drops(&self, request: &DropsRequest) -> Result<Drops, QueryError>;

    /// Returns a page of the connections.
    ///
    /// # Errors
    /// The query names something that does not exist.
    fn flows(&self, request: &FlowsRequest) -> Result<Flows, QueryError>;
}

/// A worker, as readers see it.
struct WorkerView {
    id: WorkerId,
    core: usize,
    counters: Arc<WorkerCounters>,
}

/// The controller's state at its last update.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// The tables published last.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Every kind of object has synced, at this time.
    pub(crate) synced_at: Option<Instant>,
    pub(crate) published_at: Option<Instant>,
    /// Identities and policies in the compiler.
    pub(crate) compiled: (usize, usize),
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) ports: BTreeMap<PortId, PortInfo>,
}

/// The read model.
pub struct ReadModel {
    settings: Settings,
    takeover: Takeover,
    started: Instant,
    cluster: SharedCluster,
    flows: Arc<FlowTable>,
    pool: SharedPool,
    memory: XdpConfig,
    observers: PortObservers,
    workers: Vec<WorkerView>,
    /// The newest view. The lock is held for copying the pointer.
    view: RwLock<Arc<View>>,
    /// The version that every worker has taken.
    acknowledged: AtomicU64,
    denied: Mutex<DeniedSums>,
    meters: Mutex<Meters>,
    /// Tells this process from others in cursors.
    instance: u64,
}

impl ReadModel {
    /// Makes the read model of an agent that has just started.
    pub(crate) fn new(settings: Settings, takeover: Takeover, cluster: SharedCluster, workers: &Workers) -> Self {
        let view = |worker: &crate::workers::WorkerThread| WorkerView {
            id: worker.id(),
            core: worker.core(),
            counters: Arc::clone(worker.handle().counters()),
        };
        Self {
            settings,
            takeover,
            started: Instant::now(),
            cluster,
            flows: Arc::clone(workers.flows()),
            pool: workers.pool().clone(),
            memory: *workers.config(),
            observers: workers.observers(),
            workers: workers.threads().iter().map(view).collect(),
            view: RwLock::default(),
            acknowledged: AtomicU64::new(0),
            denied: Mutex::default(),
            meters: Mutex::new(Meters::new(workers.threads().len())),
            // 53 bits: every reader of JSON keeps them.
            instance: RandomState::new().hash_one(std::process::id()) >> 11,
        }
    }

    /// Replaces the view. The controller calls it.
    pub(crate) fn update(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Sets the version that every worker has taken. The controller calls it.
    pub(crate) fn set_acknowledged(&self, version: u64) {
        self.acknowledged.store(version, Ordering::Relaxed);
    }

    /// Samples the counters that readers see as rates and sums. The controller calls it once a second: more often than
    /// the workers' counters of denied packets change hands.
    pub(crate) fn sample(&self) {
        lock(&self.meters).sample(&self.workers);
        self.sum_denied(&self.view());
    }

    /// Returns the newest view.
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the cluster for one look-up or one list.
    fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sums what all workers have counted for a port.
    fn totals(&self, port: PortId) -> PortTotals {
        let mut sum = PortTotals::default();
        for worker in &self.workers {
            sum += &worker.counters.port_totals(port);
        }
        sum
    }
}

impl View {
    /// Returns the attachment of an endpoint.
    fn attachment(&self, endpoint: EndpointId) -> Option<&Attachment> {
        let at = self
            .attachments
            .binary_search_by_key(&endpoint.0, |attachment| attachment.attachment)
            .ok()?;
        self.attachments.get(at)
    }
}

impl Queries for ReadModel {
    fn status(&self) -> Result<Status, QueryError> {
        Ok(self.read_status())
    }

    fn drops(&self, request: &DropsRequest) -> Result<Drops, QueryError> {
        self.read_drops(request)
    }

    fn flows(&self, request: &FlowsRequest) -> Result<Flows, QueryError> {
        self.read_flows(request)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
