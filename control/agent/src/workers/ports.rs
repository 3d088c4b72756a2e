//! Opens and closes ports.

use std::time::Duration;

use heddle_engine::{AddError, NotAdded, PortRole, PortTotals};
use heddle_host::{PortLink, PortLinks};
use heddle_io::{OpenPort, XdpMode, XdpPort};
use heddle_port::{Port, PortId};
use heddle_tables::{EndpointId, WorkerId};

use super::error::WorkersError;
use super::port_ids::FIRST_HOST;
use super::port_table::{PodPort, PortInfo};
use super::state::Workers;
use super::stranded::Returned;
use super::thread::WorkerThread;

/// The longest time in which a worker answers. A worker reads its channel once a turn, so only a worker that has ended
/// or hangs takes longer.
const WORKER_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A queue of an interface at which a port is opened.
#[derive(Clone, Copy)]
struct Place<'a> {
    ifname: &'a str,
    ifindex: u32,
    queue: u32,
    mode: XdpMode,
}

impl Workers {
    /// Opens every queue of the host port that is not open, one for each worker.
    ///
    /// # Errors
    /// A socket cannot be opened. Queues that were opened before stay open, so the call may be repeated.
    pub fn open_host(&mut self, ifname: &str, ifindex: u32) -> Result<PortId, WorkersError> {
        for at in 0..self.workers.len() {
            let queue = u16::try_from(at).unwrap_or(u16::MAX);
            let port = PortId(FIRST_HOST.0 + queue);
            if self.ports.get(port).is_some() {
                continue;
            }
            let place = Place {
                ifname,
                ifindex,
                queue: queue.into(),
                // In generic mode, all packets from a veth arrive at queue 0.
                mode: XdpMode::Native,
            };
            self.open(place, port, PortRole::Host, at)?;
        }
        Ok(FIRST_HOST)
    }

    /// Closes every queue of the host port.
    ///
    /// # Errors
    /// A worker does not answer.
    pub fn close_host(&mut self) -> Result<(), WorkersError> {
        let queues: Vec<PortId> = self
            .ports
            .iter()
            .filter(|(_, info)| info.role == PortRole::Host)
            .map(|(port, _)| port)
            .collect();
        queues.into_iter().try_for_each(|port| self.close(port))
    }

    /// Opens a pod's port at the worker with the fewest pods. The program has the pods' mode if the pod's kernel passes on nothing
    /// larger than the MTU but TCP segments (`tcp_segments_only`), and native mode otherwise.
    ///
    /// # Errors
    /// No number is free, or the socket cannot be opened. Then the number is free again, except if the worker is silent: it may
    /// still take the port, so the number is free when it has answered ([`Self::reclaim_stranded`]).
    pub fn open_pod(
        &mut self,
        id: EndpointId,
        ifname: &str,
        ifindex: u32,
        tcp_segments_only: bool,
    ) -> Result<PodPort, WorkersError> {
        let max = u16::try_from(self.config().max_pods).unwrap_or(u16::MAX);
        let port = self.port_ids.allocate().ok_or(WorkersError::NoPortNumber { max })?;
        let at = self.ports.least_loaded(self.workers.len());
        let place = Place {
            ifname,
            ifindex,
            queue: 0,
            mode: if tcp_segments_only {
                self.pod_mode
            } else {
                XdpMode::Native
            },
        };
        match self.open(place, port, PortRole::Pod(id), at) {
            Ok(worker) => Ok(PodPort { port, worker }),
            Err(e) => {
                if !e.is_of_worker() {
                    self.port_ids.release(port);
                }
                Err(e)
            }
        }
    }

    /// Closes the ports whose worker has answered late, and releases their numbers. The controller calls it once a second.
    pub fn reclaim_stranded(&mut self) {
        for Returned { number, rings } in self.stranded.take_returned() {
            if let Some(rings) = rings {
                self.context.close(rings);
            }
            self.port_ids.release(number);
            tracing::info!(port = number.0, "a worker that was silent has given a port back");
        }
    }

    /// Opens a port at the worker of index `at` and adds it to the table.
    fn open(&mut self, place: Place<'_>, port: PortId, role: PortRole, at: usize) -> Result<WorkerId, WorkersError> {
        let Some(worker) = self.workers.get(at).map(WorkerThread::id) else {
            return Err(WorkersError::NotAccepted(format!("there is no worker {at}")));
        };
        let info = PortInfo {
            role,
            worker,
            ifname: place.ifname.to_owned(),
            ifindex: place.ifindex,
            queue: place.queue,
            mode: place.mode,
            before: self.totals(port),
        };
        self.open_rings(&info, place.ifindex, port)?;
        self.ports.insert(port, info);
        Ok(worker)
    }

    /// Opens a port's socket and passes its rings to the worker.
    pub(super) fn open_rings(&mut self, info: &PortInfo, ifindex: u32, port: PortId) -> Result<WorkerId, WorkersError> {
        let rings = self.context.open(OpenPort {
            ifname: info.ifname.clone(),
            ifindex,
            queue: info.queue,
            port,
            mode: info.mode,
        })?;
        self.add_to_worker(info.worker.index(), info.worker, rings, info.role)?;
        Ok(info.worker)
    }

    /// Returns the interfaces with open ports, and the id of the XDP program that they have.
    #[must_use]
    pub fn port_links(&self) -> PortLinks {
        let link = |(_, info): (PortId, &PortInfo)| PortLink {
            index: info.ifindex,
            name: info.ifname.clone(),
        };
        PortLinks {
            program: self.context.program_id(),
            // The uplink's program is another one, and netlink cannot remove it.
            links: self
                .ports
                .iter()
                .filter(|(_, info)| info.role != PortRole::Uplink)
                .map(link)
                .collect(),
        }
    }

    /// Attaches the XDP program again to an interface that has lost it, if a port is open there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_again(&self, link: &PortLink) -> Result<(), WorkersError> {
        let is_open = |(_, info): (PortId, &PortInfo)| (info.ifindex, &info.ifname) == (link.index, &link.name);
        if self.ports.iter().any(is_open) {
            self.context.attach_again(&link.name, link.index)?;
        }
        Ok(())
    }

    /// Passes a port to a worker and waits until the worker has accepted it. A port that was refused is closed.
    pub(super) fn add_to_worker(
        &mut self,
        at: usize,
        worker: WorkerId,
        rings: XdpPort,
        role: PortRole,
    ) -> Result<(), WorkersError> {
        let Some(thread) = self.workers.get(at) else {
            self.context.close(rings);
            return Err(WorkersError::NotAccepted(format!("there is no worker {at}")));
        };
        let number = rings.id();
        let answer = match thread.handle().add_port(rings, role) {
            Ok(answer) => answer,
            Err(NotAdded { port, gone }) => {
                self.context.close(port);
                return Err(gone.into());
            }
        };
        match answer.recv_timeout(WORKER_ANSWERS_WITHIN) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => {
                let message = refused.to_string();
                let (AddError::NumberTooGreat { port, .. } | AddError::NumberTaken { port, .. }) = refused;
                self.context.close(port);
                Err(WorkersError::NotAccepted(message))
            }
            Err(_) => {
                // The worker reads its messages in order, so it returns the port if it takes it after all.
                let removed = thread.handle().remove_port(number)?;
                self.stranded.add(number, Some(answer), removed);
                Err(WorkersError::WorkerSilent(worker))
            }
        }
    }

    /// Removes a port from its worker and closes it. A port that is not open is no error.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn close(&mut self, port: PortId) -> Result<(), WorkersError> {
        let Some(info) = self.ports.remove(port) else {
            return Ok(());
        };
        if let Some(rings) = self.remove_from_worker(port, info.worker)? {
            self.context.close(rings);
        }
        self.port_ids.release(port);
        Ok(())
    }

    /// Removes a port from its worker; `None` if the worker did not have it.
    ///
    /// # Errors
    /// The worker does not answer. The caller must not release the number then: the worker may still own the port, and
    /// [`Self::reclaim_stranded`] releases it later.
    pub(super) fn remove_from_worker(
        &mut self,
        port: PortId,
        worker: WorkerId,
    ) -> Result<Option<XdpPort>, WorkersError> {
        let Some(thread) = self.workers.get(worker.index()) else {
            return Err(WorkersError::NotAccepted(format!("there is no worker {worker}")));
        };
        let answer = thread.handle().remove_port(port)?;
        let Ok(rings) = answer.recv_timeout(WORKER_ANSWERS_WITHIN) else {
            self.stranded.add(port, None, answer);
            return Err(WorkersError::WorkerSilent(worker));
        };
        if rings.is_none() {
            tracing::error!(
                port = port.0,
                worker = worker.0,
                "the worker does not have a port that it should own"
            );
        }
        Ok(rings)
    }

    /// Returns the counters of a port number, summed over all workers.
    #[must_use]
    pub fn totals(&self, port: PortId) -> PortTotals {
        let mut sum = PortTotals::default();
        for worker in &self.workers {
            sum += &worker.handle().counters().port_totals(port);
        }
        sum
    }
}
