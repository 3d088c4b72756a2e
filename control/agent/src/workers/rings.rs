//! Takes frames from the fill rings of silent ports when other ports need them.
//!
//! A busy port's fill ring grows. It shrinks when the kernel receives packets and the worker does not refill it. The
//! kernel returns a frame of the fill ring only with a packet in it, so the ring of a port that has become silent keeps
//! its frames. This does no harm while other rings can still grow. When the frames for growth are used up, silent ports
//! are closed and opened again. This takes some milliseconds for each, and leaves it the minimum that every port has.

use heddle_port::{FillBudget, Holder, PortId};
use heddle_tables::WorkerId;

use super::error::WorkersError;
use super::state::Workers;

/// The maximum number of ports that one call reopens, because the control thread has other work too.
const MAX_REOPENED: usize = 4;

/// A silent port that was closed and could not be opened again.
#[derive(Debug)]
pub struct NotReopened {
    /// The port's number.
    pub port: PortId,
    /// The reason.
    pub error: WorkersError,
}

impl Workers {
    /// Reopens silent ports that hold many frames, if too few frames are left for one busy port to grow to its ceiling.
    /// The controller calls it once a second. Returns the ports that could not be opened again and are closed now.
    ///
    /// # Errors
    /// A worker does not answer.
    pub fn shrink_silent(&mut self) -> Result<Vec<NotReopened>, WorkersError> {
        // Update the record of silent ports in each call, even if nothing has to be shrunk.
        let packets: Vec<(PortId, u64)> = self
            .ports
            .iter()
            .map(|(port, _)| {
                let totals = self.totals(port);
                (port, totals.rx_packets + totals.tx_packets)
            })
            .collect();
        self.silence.record(packets.into_iter());
        // Do nothing while one port can still grow to its ceiling, or if no ring has grown.
        let budget = self.context.pool().budget();
        if budget.growth_left() >= FillBudget::CEILING - FillBudget::FLOOR || budget.grown() == 0 {
            return Ok(Vec::new());
        }
        // Reopen the largest ones, a few in each call.
        let holders = self.context.store().holders();
        let held = |port: PortId| holders.get(&Holder::Port(port)).copied().unwrap_or(0);
        let mut grown = self.silence.grown(budget.floor(), held);
        grown.truncate(MAX_REOPENED);
        let mut failed = Vec::new();
        for port in grown {
            match self.reopen(port) {
                Ok(worker) => tracing::info!(
                    port = port.0,
                    worker = worker.0,
                    frames = held(port),
                    "reopened a silent port to free its frames"
                ),
                Err(WorkersError::WorkerSilent(worker)) => return Err(WorkersError::WorkerSilent(worker)),
                Err(error) => failed.push(NotReopened { port, error }),
            }
        }
        Ok(failed)
    }

    /// Closes a port and opens it again with the same number and worker. If opening fails, the number is released.
    fn reopen(&mut self, port: PortId) -> Result<WorkerId, WorkersError> {
        let Some(info) = self.ports.remove(port) else {
            return Err(WorkersError::NotAccepted(format!("port {port} is not open")));
        };
        let rings = self.remove_from_worker(port, info.worker)?;
        let ifindex = rings.as_ref().map(heddle_io::XdpPort::ifindex);
        if let Some(rings) = rings {
            self.context.close(rings);
        }
        let opened = match ifindex {
            Some(ifindex) => self.open_rings(&info, ifindex, port),
            None => Err(WorkersError::NotAccepted(format!(
                "worker {} does not have port {port}",
                info.worker
            ))),
        };
        match opened {
            Ok(worker) => {
                self.ports.insert(port, info);
                Ok(worker)
            }
            Err(error) => {
                // A silent worker may still take the port.
                if !error.is_of_worker() {
                    self.port_ids.release(port);
                }
                Err(error)
            }
        }
    }
}
