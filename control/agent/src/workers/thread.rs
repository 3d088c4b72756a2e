//! A worker's thread: named, pinned to a core, and joined at the end.

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

use super::clock::clock;

/// A worker and its thread.
pub struct WorkerThread {
    handle: WorkerHandle<XdpPort>,
    core: usize,
    thread: JoinHandle<Worker<XdpPort>>,
}

impl WorkerThread {
    /// Starts a worker's thread and pins it to a core. A thread that cannot be pinned runs unpinned, with a warning.
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
                    "cannot pin the worker to its core: it runs on any core"
                );
            }
            worker.run(clock);
            worker
        })?;
        Ok(Self { handle, core, thread })
    }

    /// Returns the worker's number.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.handle.id()
    }

    /// Returns the handle by which the control thread sends it messages and reads its counters.
    #[must_use]
    pub const fn handle(&self) -> &WorkerHandle<XdpPort> {
        &self.handle
    }

    /// Returns the core that it was assigned. If the kernel did not allow to pin it there, it runs on any core.
    #[must_use]
    pub const fn core(&self) -> usize {
        self.core
    }

    /// Returns `true` if its thread has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread's end and returns the worker; `None` if the thread has panicked. The caller has stopped it.
    pub(super) fn join(self) -> Option<Worker<XdpPort>> {
        self.thread.join().ok()
    }
}
