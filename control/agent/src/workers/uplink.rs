//! The uplink: its XDP program, and a port on each of its queues.

use std::path::Path;

use heddle_engine::PortRole;
use heddle_io::XdpMode;
use heddle_io::uplink::{self, Steering, UplinkLimits};
use heddle_port::PortId;
use heddle_tables::UplinkPort;

use super::error::WorkersError;
use super::port_table::PortInfo;
use super::state::Workers;
use super::thread::WorkerThread;

/// The directory of the pins in the run directory: a bpffs that outlives the agent.
pub const PINS: &str = "bpf";

impl Workers {
    /// Attaches the program to the uplink, or takes it over, and opens a port on each of its queues. The queues are spread over the
    /// workers.
    ///
    /// # Errors
    /// The device cannot be used, or it has too many queues. Nothing is open then.
    pub fn open_uplink(&mut self, run_dir: &Path, ifname: &str, ifindex: u32) -> Result<(), WorkersError> {
        let queues = uplink::receive_queues(ifname)?;
        let max = u32::from(self.uplink_queues);
        if queues > max {
            return Err(WorkersError::TooManyQueues {
                ifname: ifname.to_owned(),
                queues,
                max,
            });
        }
        let pins = run_dir.join(PINS);
        uplink::prepare_pins(&pins)?;
        self.uplink = Some(uplink::Uplink::attach(
            ifname,
            ifindex,
            &pins,
            &UplinkLimits::default(),
        )?);
        for queue in 0..queues {
            if let Err(error) = self.open_uplink_queue(ifname, ifindex, queue) {
                // Close the queues that were opened, so that the next try finds the same state.
                self.close_uplink();
                return Err(error);
            }
        }
        Ok(())
    }

    fn open_uplink_queue(&mut self, ifname: &str, ifindex: u32, queue: u32) -> Result<(), WorkersError> {
        let number = u16::try_from(queue).unwrap_or(u16::MAX);
        let port = self.port_ids.of_uplink(number);
        let at = usize::from(number) % self.workers.len().max(1);
        let Some(worker) = self.workers.get(at).map(WorkerThread::id) else {
            return Err(WorkersError::NotAccepted(format!("there is no worker {at}")));
        };
        let Some(program) = &self.uplink else {
            return Err(WorkersError::NotAccepted("the uplink has no program".to_owned()));
        };
        let info = PortInfo {
            role: PortRole::Uplink,
            worker,
            ifname: ifname.to_owned(),
            ifindex,
            queue,
            mode: program.mode(),
            before: self.totals(port),
        };
        let rings = self.context.open_uplink(program, queue, port)?;
        self.add_to_worker(at, worker, rings, PortRole::Uplink)?;
        self.ports.insert(port, info);
        Ok(())
    }

    /// Closes the uplink's ports. The program stays, and drops what is heddle's.
    pub fn close_uplink(&mut self) {
        let queues: Vec<PortId> = self
            .ports
            .iter()
            .filter(|(_, info)| info.role == PortRole::Uplink)
            .map(|(port, _)| port)
            .collect();
        for port in queues {
            // A silent worker gives the port back later; the others go on.
            if let Err(error) = self.close(port) {
                tracing::error!("cannot close port {} of the uplink: {error}", port.0);
            }
        }
        self.uplink = None;
    }

    /// Returns the uplink's open ports, for the tables.
    #[must_use]
    pub fn uplink_ports(&self) -> Vec<UplinkPort> {
        let of_uplink = self.ports.iter().filter(|(_, info)| info.role == PortRole::Uplink);
        of_uplink
            .map(|(port, info)| UplinkPort {
                port,
                worker: info.worker,
            })
            .collect()
    }

    /// Returns the name and the index of the open uplink, and the mode of its program.
    #[must_use]
    pub fn uplink(&self) -> Option<(&str, u32, XdpMode)> {
        let program = self.uplink.as_ref()?;
        Some((program.ifname(), program.ifindex(), program.mode()))
    }

    /// Sets the packets that the uplink's program hands to the workers. Without an open uplink this does nothing.
    ///
    /// # Errors
    /// A map is full, or the kernel refuses to write it.
    pub fn steer(&mut self, steering: &Steering) -> Result<(), WorkersError> {
        match &mut self.uplink {
            Some(program) => Ok(program.set(steering)?),
            None => Ok(()),
        }
    }
}
