//! Opening and closing ports, and which worker has which.

use std::collections::BTreeMap;

use heddle_engine::{AddError, PortRole, PortTotals};
use heddle_io::{OpenPort, XdpPort};
use heddle_port::PortId;
use heddle_tables::{EndpointId, WorkerId};

use super::port_ids::FIRST_HOST;
use super::thread::WorkerThread;
use super::{WORKER_ANSWERS_WITHIN, Workers, WorkersError};

/// An open port, as control knows it.
#[derive(Debug, Clone)]
pub struct PortInfo {
    /// Whom it leads to.
    pub role: PortRole,
    /// The worker that has it.
    pub worker: WorkerId,
    /// Its interface.
    pub ifname: String,
    /// The interface's queue.
    pub queue: u32,
    /// What the number had counted for its owners before.
    before: PortTotals,
}

impl PortInfo {
    /// What was counted since it was opened, of `now`, what its number has counted.
    #[must_use]
    pub fn since_opened(&self, mut now: PortTotals) -> PortTotals {
        let before = &self.before;
        for (n, b) in [
            (&mut now.rx_packets, before.rx_packets),
            (&mut now.rx_bytes, before.rx_bytes),
            (&mut now.tx_packets, before.tx_packets),
            (&mut now.tx_bytes, before.tx_bytes),
            (&mut now.forwarded, before.forwarded),
            (&mut now.fragments, before.fragments),
            (&mut now.fragments_lost, before.fragments_lost),
        ] {
            *n = n.saturating_sub(b);
        }
        subtract(&mut now.answered, &before.answered);
        subtract(&mut now.absorbed, &before.absorbed);
        subtract(&mut now.dropped, &before.dropped);
        now
    }
}

fn subtract(now: &mut [u64], before: &[u64]) {
    for (n, b) in now.iter_mut().zip(before) {
        *n = n.saturating_sub(*b);
    }
}

/// The open ports.
#[derive(Debug, Default)]
pub(super) struct Ports(BTreeMap<PortId, PortInfo>);

impl Ports {
    pub(super) fn iter(&self) -> impl Iterator<Item = (PortId, &PortInfo)> {
        self.0.iter().map(|(number, info)| (*number, info))
    }

    pub(super) fn get(&self, port: PortId) -> Option<&PortInfo> {
        self.0.get(&port)
    }

    pub(super) fn insert(&mut self, port: PortId, info: PortInfo) {
        self.0.insert(port, info);
    }

    pub(super) fn remove(&mut self, port: PortId) -> Option<PortInfo> {
        self.0.remove(&port)
    }

    /// The worker with the fewest pods, the first of several.
    fn least_loaded(&self, workers: usize) -> usize {
        let mut load = vec![0usize; workers];
        for info in self.0.values().filter(|info| info.role != PortRole::Host) {
            if let Some(n) = load.get_mut(info.worker.index()) {
                *n += 1;
            }
        }
        (0..workers)
            .min_by_key(|&w| load.get(w).copied().unwrap_or(0))
            .unwrap_or(0)
    }
}

/// A pod's open port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodPort {
    /// Its number.
    pub port: PortId,
    /// The worker that has it.
    pub worker: WorkerId,
}

impl Workers {
    /// Opens every queue of the host port, one for each worker.
    ///
    /// # Errors
    /// A socket cannot be made; those made before stay open.
    pub fn open_host(&mut self, ifname: &str, ifindex: u32) -> Result<PortId, WorkersError> {
        for at in 0..self.workers.len() {
            let queue = u16::try_from(at).unwrap_or(u16::MAX);
            let port = PortId(FIRST_HOST.0 + queue);
            self.open(ifname, ifindex, queue.into(), port, PortRole::Host, at)?;
        }
        Ok(FIRST_HOST)
    }

    /// Closes every queue of the host port.
    ///
    /// # Errors
    /// A worker does not give its queue back.
    pub fn close_host(&mut self) -> Result<(), WorkersError> {
        let queues: Vec<PortId> = self
            .ports
            .iter()
            .filter(|(_, info)| info.role == PortRole::Host)
            .map(|(port, _)| port)
            .collect();
        queues.into_iter().try_for_each(|port| self.close(port))
    }

    /// Opens a pod's port with the worker that has the fewest.
    ///
    /// # Errors
    /// No number is left, or the socket cannot be made; nothing is left of it then.
    pub fn open_pod(&mut self, id: EndpointId, ifname: &str, ifindex: u32) -> Result<PodPort, WorkersError> {
        let max = u16::try_from(self.config().max_pods).unwrap_or(u16::MAX);
        let port = self.numbers.take().ok_or(WorkersError::NoPortNumber { max })?;
        let at = self.ports.least_loaded(self.workers.len());
        match self.open(ifname, ifindex, 0, port, PortRole::Pod(id), at) {
            Ok(worker) => Ok(PodPort { port, worker }),
            Err(e) => {
                self.numbers.give_back(port);
                Err(e)
            }
        }
    }

    fn open(
        &mut self,
        ifname: &str,
        ifindex: u32,
        queue: u32,
        port: PortId,
        role: PortRole,
        at: usize,
    ) -> Result<WorkerId, WorkersError> {
        let Some(worker) = self.workers.get(at).map(WorkerThread::id) else {
            return Err(WorkersError::NotTaken(format!("there is no worker {at}")));
        };
        let info = PortInfo {
            role,
            worker,
            ifname: ifname.to_owned(),
            queue,
            before: self.totals(port),
        };
        self.open_rings(&info, ifindex, port)?;
        self.ports.insert(port, info);
        Ok(worker)
    }

    /// Makes a port's socket and gives it to its worker.
    pub(super) fn open_rings(&mut self, info: &PortInfo, ifindex: u32, port: PortId) -> Result<WorkerId, WorkersError> {
        let rings = self.context.open(OpenPort {
            ifname: info.ifname.clone(),
            ifindex,
            queue: info.queue,
            port,
        })?;
        self.hand_over(info.worker.index(), info.worker, rings, info.role)?;
        Ok(info.worker)
    }

    /// Gives a port to a worker and waits until it has it; one that was not taken is closed.
    fn hand_over(&mut self, at: usize, worker: WorkerId, rings: XdpPort, role: PortRole) -> Result<(), WorkersError> {
        let Some(thread) = self.workers.get(at) else {
            self.context.close(rings);
            return Err(WorkersError::WorkerSilent(worker));
        };
        let answer = thread.handle().add_port(rings, role)?;
        match answer.recv_timeout(WORKER_ANSWERS_WITHIN) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => {
                let message = refused.to_string();
                let (AddError::NumberTooGreat { port, .. } | AddError::NumberTaken { port, .. }) = refused;
                self.context.close(port);
                Err(WorkersError::NotTaken(message))
            }
            Err(_) => Err(WorkersError::WorkerSilent(worker)),
        }
    }

    /// Takes a port from its worker and closes it. One that is not open is no error.
    ///
    /// # Errors
    /// The worker does not give it back.
    pub fn close(&mut self, port: PortId) -> Result<(), WorkersError> {
        let Some(info) = self.ports.remove(port) else {
            return Ok(());
        };
        if let Some(rings) = self.take_from_worker(port, info.worker)? {
            self.context.close(rings);
        }
        self.give_back(port);
        Ok(())
    }

    /// Takes a port from its worker; `None`: the worker did not have it. When the worker does not answer, the number stays
    /// taken: one that comes to itself again still has the port.
    pub(super) fn take_from_worker(&mut self, port: PortId, worker: WorkerId) -> Result<Option<XdpPort>, WorkersError> {
        let Some(thread) = self.workers.get(worker.index()) else {
            return Err(WorkersError::WorkerSilent(worker));
        };
        let answer = thread.handle().remove_port(port)?;
        let rings = answer
            .recv_timeout(WORKER_ANSWERS_WITHIN)
            .map_err(|_| WorkersError::WorkerSilent(worker))?;
        if rings.is_none() {
            tracing::error!(port = port.0, worker = worker.0, "the worker did not have its port");
        }
        Ok(rings)
    }

    /// Lets another port have the number.
    pub(super) fn give_back(&mut self, port: PortId) {
        self.numbers.give_back(port);
    }

    /// What all workers have counted for a number.
    #[must_use]
    pub fn totals(&self, port: PortId) -> PortTotals {
        let mut sum = PortTotals::default();
        for worker in &self.workers {
            sum += &worker.handle().counters().port_totals(port);
        }
        sum
    }
}
