//! The control thread's state of the workers: their threads, their ports, and the tables that they read.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use heddle_config::{FRAME_SIZE, MAX_WORKERS, Settings, handover_frames, uplink_queues, working_frames};
use heddle_engine::{StageConfig, WorkerConfig, mesh};
use heddle_flow::{FlowTable, Millis};
use heddle_io::uplink::Uplink;
use heddle_io::{PortObservers, XdpConfig, XdpContext, XdpMode, XdpPort};
use heddle_port::{PortId, SharedPool, WorkerPool};
use heddle_tables::publish::{self, Publisher};
use heddle_tables::{Snapshot, WorkerId};

use super::error::WorkersError;
use super::port_ids::PortIds;
use super::port_table::{PortInfo, PortTable};
use super::silence::Silence;
use super::stranded::StrandedPorts;
use super::thread::WorkerThread;

/// The workers, their ports and the publication of tables. The control thread owns it.
pub struct Workers {
    // Dropped before the context, whose anchor socket must be closed last.
    pub(super) ports: PortTable,
    pub(super) workers: Vec<WorkerThread>,
    publisher: Publisher<Snapshot>,
    flows: Arc<FlowTable>,
    pub(super) context: XdpContext,
    /// The mode of the XDP program on pods' interfaces.
    pub(super) pod_mode: XdpMode,
    /// The program on the uplink, while its queues are open.
    pub(super) uplink: Option<Uplink>,
    /// The maximum number of the uplink's queues.
    pub(super) uplink_queues: u16,
    pub(super) port_ids: PortIds,
    pub(super) silence: Silence,
    /// Ports whose workers have not answered yet.
    pub(super) stranded: StrandedPorts<XdpPort>,
}

impl Workers {
    /// Starts the workers without ports, with empty tables. `fresh_since` is the time at which the flow table was created;
    /// for the configured time after it, mid-stream connections are adopted. `pod_mode` is the mode of the XDP program on pods'
    /// interfaces.
    ///
    /// # Errors
    /// The AF_XDP memory cannot be created, or a thread cannot be started.
    pub fn start(
        settings: &Settings,
        flows: FlowTable,
        fresh_since: Millis,
        pod_mode: XdpMode,
    ) -> Result<Self, WorkersError> {
        let count = u8::try_from(settings.worker_cores.len()).unwrap_or(u8::MAX);
        let uplink_queues = uplink_queues(count.into());
        let port_numbers = MAX_WORKERS + settings.max_pods + uplink_queues;
        // The memory and the shared parts.
        let context = XdpContext::new(XdpConfig {
            frames: settings.frames,
            frame_size: FRAME_SIZE,
            max_pods: settings.max_pods.into(),
            other_ports: u32::from(count) + u32::from(uplink_queues),
            working: working_frames(count.into(), settings.fragments.held_frames),
            port_numbers: port_numbers.into(),
        })?;
        let flows = Arc::new(flows);
        let (publisher, readers) = publish::channel(Arc::new(Snapshot::default()), count.into());
        // The settings of the stages, the same for all workers except for the seed.
        let adopt = u64::try_from(settings.midstream_pickup.as_millis()).unwrap_or(u64::MAX);
        let stages = StageConfig {
            adopt_until: if adopt == 0 { Millis(0) } else { fresh_since.plus(adopt) },
            fragments: settings.fragments,
            ..StageConfig::default()
        };
        // One thread for each core, with its ends of the hand-over queues.
        let mut workers = Vec::with_capacity(usize::from(count));
        for (((ends, reader), id), &core) in mesh(count, handover_frames(count.into()), port_numbers)?
            .into_iter()
            .zip(readers)
            .zip(0u8..)
            .zip(&settings.worker_cores)
        {
            let pool = WorkerPool::new(WorkerId(id), context.pool().clone());
            let config = WorkerConfig {
                stages: StageConfig {
                    seed: RandomState::new().hash_one(id),
                    ..stages
                },
                idle_after: settings.idle_after,
                ..WorkerConfig::new(WorkerId(id), port_numbers)
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
            ports: PortTable::default(),
            workers,
            publisher,
            flows,
            context,
            pod_mode,
            uplink: None,
            uplink_queues,
            port_ids: PortIds::new(settings.max_pods),
            silence: Silence::default(),
            stranded: StrandedPorts::default(),
        })
    }

    /// Publishes new tables to the workers.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.publisher.publish(snapshot);
    }

    /// Frees tables that no worker reads any more, and returns the version that every worker has taken.
    pub fn acknowledged(&mut self) -> u64 {
        self.publisher.collect();
        self.publisher.acknowledged()
    }

    /// Returns the version published last; 0 before the first one.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.publisher.newest().map_or(0, |snapshot| snapshot.version())
    }

    /// Returns the tables published last.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Snapshot>> {
        self.publisher.newest()
    }

    /// Returns the flow table.
    #[must_use]
    pub const fn flows(&self) -> &Arc<FlowTable> {
        &self.flows
    }

    /// Returns the pool of the shared frames.
    #[must_use]
    pub fn pool(&self) -> &SharedPool {
        self.context.pool()
    }

    /// Returns the sizes with which the AF_XDP memory was created.
    #[must_use]
    pub fn config(&self) -> &XdpConfig {
        self.context.config()
    }

    /// Returns the worker threads.
    #[must_use]
    pub fn threads(&self) -> &[WorkerThread] {
        &self.workers
    }

    /// Returns a worker whose thread has ended although nobody stopped it.
    #[must_use]
    pub fn dead_worker(&self) -> Option<WorkerId> {
        self.workers
            .iter()
            .find(|worker| worker.has_ended())
            .map(WorkerThread::id)
    }

    /// Returns an open port.
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortInfo> {
        self.ports.get(port)
    }

    /// Returns the open ports in the order of their numbers.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &PortInfo)> {
        self.ports.iter()
    }

    /// Returns the observers of the open ports' rings and kernel counters.
    #[must_use]
    pub fn observers(&self) -> PortObservers {
        self.context.observers()
    }

    /// Stops the workers and closes all ports.
    pub fn stop(mut self) {
        for worker in &self.workers {
            worker.handle().stop();
        }
        // Wait until all workers have ended: only then no worker adds to the hand-over queues, and each can drain its
        // own.
        let ended: Vec<_> = self.workers.drain(..).filter_map(WorkerThread::join).collect();
        for worker in ended {
            for (port, _) in worker.finish() {
                self.context.close(port);
            }
        }
    }
}
