//! The workers, their ports, and what they read.
//!
//! [`Workers`] belongs to the control thread: it opens and closes sockets (which takes milliseconds) and hands the
//! rings to the workers and back by their channels. Port numbers: first one for each queue of the host port, then pods.

pub mod flow_file;
mod port_ids;
mod ports;
mod rings;
mod thread;

pub use ports::{PodPort, PortInfo};
pub use rings::NotReopened;
pub use thread::WorkerThread;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use heddle_engine::{StageConfig, WorkerGone, mesh};
use heddle_flow::{FlowTable, Millis};
use heddle_io::{PortObservers, XdpConfig, XdpContext, XdpError};
use heddle_port::{PortId, SharedPool, WorkerPool};
use heddle_tables::publish::{self, Publisher};
use heddle_tables::{Snapshot, WorkerId};

use heddle_config::{FRAME_SIZE, MAX_WORKERS, Settings, working_frames};
use port_ids::PortIds;
use ports::Ports;

/// Packets that a hand-over lane between two workers holds.
const LANE: usize = 1024;
/// How long a worker may take to answer control. It looks once a turn, so only a dead one takes longer.
const WORKER_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Why the dataplane cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// AF_XDP refuses.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A worker has ended.
    #[error(transparent)]
    WorkerGone(#[from] WorkerGone),
    /// A worker does not answer.
    #[error("worker {0} does not answer: start the agent again")]
    WorkerSilent(WorkerId),
    /// A worker did not take a port.
    #[error("{0}")]
    NotTaken(String),
    /// Every number of a pod's port is in use.
    #[error("all {max} ports of pods are open (key maxPods)")]
    NoPortNumber {
        /// The most pods.
        max: u16,
    },
    /// Threads or eventfds cannot be made.
    #[error("starting the workers: {0}")]
    Threads(#[from] io::Error),
}

/// Workers, ports and publication.
pub struct Workers {
    // Ports go before the context: its anchor is closed last.
    ports: Ports,
    workers: Vec<WorkerThread>,
    publisher: Publisher<Snapshot>,
    flows: Arc<FlowTable>,
    context: XdpContext,
    numbers: PortIds,
    silence: rings::Silence,
}

/// The clock of the flow table: it goes on while the machine sleeps and over restarts of the agent.
#[must_use]
pub fn clock() -> Millis {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
    Millis(seconds * 1000 + millis)
}

impl Workers {
    /// Starts the workers, without ports; they read an empty snapshot. `fresh_since`: when the flow table was
    /// made; for a while after that connections are picked up in their middle.
    ///
    /// # Errors
    /// AF_XDP is not to be had, or threads cannot be started.
    pub fn start(settings: &Settings, flows: FlowTable, fresh_since: Millis) -> Result<Self, WorkersError> {
        let count = u8::try_from(settings.worker_cores.len()).unwrap_or(u8::MAX);
        let port_numbers = MAX_WORKERS + settings.max_pods;
        let context = XdpContext::new(XdpConfig {
            frames: settings.frames,
            frame_size: FRAME_SIZE,
            max_pods: settings.max_pods.into(),
            other_ports: count.into(),
            working: working_frames(count.into(), settings.fragments.held_frames),
            port_numbers: port_numbers.into(),
        })?;
        let flows = Arc::new(flows);
        let (publisher, readers) = publish::channel(Arc::new(Snapshot::default()), count.into());
        let adopt = u64::try_from(settings.midstream_pickup.as_millis()).unwrap_or(u64::MAX);
        let stages = StageConfig {
            adopt_until: if adopt == 0 { Millis(0) } else { fresh_since.plus(adopt) },
            fragments: settings.fragments,
            ..StageConfig::default()
        };
        let mut workers = Vec::with_capacity(usize::from(count));
        for (((ends, reader), id), &core) in mesh(count, LANE)?
            .into_iter()
            .zip(readers)
            .zip(0u8..)
            .zip(&settings.worker_cores)
        {
            let pool = WorkerPool::new(WorkerId(id), context.pool().clone());
            let config = heddle_engine::WorkerConfig {
                stages: StageConfig {
                    seed: RandomState::new().hash_one(id),
                    ..stages
                },
                idle_after: settings.idle_after,
                ..heddle_engine::WorkerConfig::new(WorkerId(id), port_numbers)
            };
            workers.push(WorkerThread::start(
                config,
                core,
                pool,
                reader,
                Arc::clone(&flows),
                ends,
            )?);
        }
        Ok(Self {
            ports: Ports::default(),
            workers,
            publisher,
            flows,
            context,
            numbers: PortIds::new(settings.max_pods),
            silence: rings::Silence::default(),
        })
    }

    /// Gives the workers new tables.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.publisher.publish(snapshot);
    }

    /// The version that every worker has taken; old versions are freed on the way.
    pub fn acknowledged(&mut self) -> u64 {
        self.publisher.collect();
        self.publisher.acknowledged()
    }

    /// The version published last.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.publisher.newest().map_or(0, |snapshot| snapshot.version())
    }

    /// The tables published last.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Snapshot>> {
        self.publisher.newest()
    }

    /// The flow table.
    #[must_use]
    pub const fn flows(&self) -> &Arc<FlowTable> {
        &self.flows
    }

    /// The pool of the shared frames.
    #[must_use]
    pub fn pool(&self) -> &SharedPool {
        self.context.pool()
    }

    /// The sizes that the AF_XDP memory was made with.
    #[must_use]
    pub fn config(&self) -> &XdpConfig {
        self.context.config()
    }

    /// The workers.
    #[must_use]
    pub fn threads(&self) -> &[WorkerThread] {
        &self.workers
    }

    /// A worker whose thread has ended though nobody stopped it.
    #[must_use]
    pub fn dead_worker(&self) -> Option<WorkerId> {
        self.workers
            .iter()
            .find(|worker| worker.has_ended())
            .map(WorkerThread::id)
    }

    /// An open port.
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortInfo> {
        self.ports.get(port)
    }

    /// The open ports, by number.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &PortInfo)> {
        self.ports.iter()
    }

    /// Returns the observers of the open ports' rings and kernel counters.
    #[must_use]
    pub fn observers(&self) -> PortObservers {
        self.context.observers()
    }

    /// Ends the workers and closes all ports.
    pub fn stop(mut self) {
        for worker in &self.workers {
            worker.handle().stop();
        }
        // A worker's lanes may be drained only when no other one runs any more.
        let ended: Vec<_> = self.workers.drain(..).filter_map(WorkerThread::join).collect();
        for worker in ended {
            for (port, _) in worker.finish() {
                self.context.close(port);
            }
        }
    }
}
