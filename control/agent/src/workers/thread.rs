//! Worker threads: pinned, named, and joined in order.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;
use heddle_engine::{Ends, Worker, WorkerConfig, WorkerHandle};
use heddle_flow::FlowTable;
use heddle_io::XdpPort;
use heddle_port::WorkerPool;
use heddle_tables::publish::Reader;
use heddle_tables::{Snapshot, WorkerId};

use super::clock;

/// A worker and its thread.
pub struct WorkerThread {
    handle: WorkerHandle<XdpPort>,
    core: usize,
    thread: JoinHandle<Worker<XdpPort>>,
}

impl WorkerThread {
    /// Starts a worker on a core.
    pub(super) fn start(
        config: WorkerConfig,
        core: usize,
        pool: WorkerPool,
        reader: Reader<Snapshot>,
        flows: Arc<FlowTable>,
        ends: Ends,
    ) -> io::Result<Self> {
        let (mut worker, handle) = Worker::new(config, pool, reader, flows, ends);
        let id = config.id;
        let thread = thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            if !core_affinity::set_for_current(CoreId { id: core }) {
                tracing::warn!(
                    worker = id.0,
                    core,
                    "the worker could not be pinned to its core and runs anywhere"
                );
            }
            worker.run(clock);
            worker
        })?;
        Ok(Self { handle, core, thread })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.handle.id()
    }

    /// By which control talks to it.
    #[must_use]
    pub const fn handle(&self) -> &WorkerHandle<XdpPort> {
        &self.handle
    }

    /// The core that it was to be pinned to.
    #[must_use]
    pub const fn core(&self) -> usize {
        self.core
    }

    /// Whether its thread has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end, after it was told to stop; `None` if it had died.
    pub(super) fn join(self) -> Option<Worker<XdpPort>> {
        self.thread.join().ok()
    }
}
