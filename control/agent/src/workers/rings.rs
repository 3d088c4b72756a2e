//! Fill rings that have grown and fallen silent give their frames back when others need them.
//!
//! A busy port's ring grows, and shrinks again by not being refilled. The kernel gives a fill frame back only by
//! receiving into it, so the ring of a port that has fallen silent keeps what it has. As long as frames to grow by are
//! left that harms nobody. When they are used up, silent ports that have grown are closed and opened again, which takes
//! some milliseconds and leaves them with what every port has at rest.

use std::collections::BTreeMap;

use heddle_port::{FillBudget, Holder, PortId};
use heddle_tables::WorkerId;

use super::{Workers, WorkersError};

/// Looks during which a port must have received and sent nothing to count as silent.
const SILENT_LOOKS: u32 = 2;
/// Ports opened again after one look at most: control has other things to do.
const AT_ONCE: usize = 4;

/// How long each port has been silent, in looks.
#[derive(Debug, Default)]
pub(super) struct Silence(BTreeMap<PortId, Quiet>);

#[derive(Debug, Clone, Copy)]
struct Quiet {
    packets: u64,
    looks: u32,
}

impl Silence {
    /// Notes how many packets each port has received and sent so far.
    fn look(&mut self, ports: impl Iterator<Item = (PortId, u64)>) {
        let before = std::mem::take(&mut self.0);
        self.0 = ports
            .map(|(port, packets)| {
                let looks = match before.get(&port) {
                    Some(quiet) if quiet.packets == packets => quiet.looks + 1,
                    _ => 0,
                };
                (port, Quiet { packets, looks })
            })
            .collect();
    }

    /// Which of the silent ports hold more than `rest` frames, those with the most first.
    fn grown(&self, rest: u32, held: impl Fn(PortId) -> u32) -> Vec<PortId> {
        let mut grown: Vec<(u32, PortId)> = self
            .0
            .iter()
            .filter(|(_, quiet)| quiet.looks >= SILENT_LOOKS)
            .map(|(port, _)| (held(*port), *port))
            .filter(|(held, _)| *held > rest)
            .collect();
        grown.sort_unstable_by(|a, b| b.cmp(a));
        grown.into_iter().map(|(_, port)| port).collect()
    }
}

/// A silent port that was closed and could not be opened again.
#[derive(Debug)]
pub struct NotReopened {
    /// Its number.
    pub port: PortId,
    /// Why.
    pub error: WorkersError,
}

impl Workers {
    /// Takes frames back from silent ports if too few are left for one busy port to grow to its most. To be called about
    /// once a second; gives the ports that are closed now.
    ///
    /// # Errors
    /// A worker does not give a port back.
    pub fn shrink_silent(&mut self) -> Result<Vec<NotReopened>, WorkersError> {
        let packets: Vec<(PortId, u64)> = self
            .ports
            .iter()
            .map(|(port, _)| {
                let totals = self.totals(port);
                (port, totals.rx_packets + totals.tx_packets)
            })
            .collect();
        self.silence.look(packets.into_iter());
        let budget = self.context.pool().budget();
        if budget.growth_left() >= FillBudget::CEILING - FillBudget::FLOOR || budget.grown() == 0 {
            return Ok(Vec::new());
        }
        let holders = self.context.store().holders();
        let held = |port: PortId| holders.get(&Holder::Port(port)).copied().unwrap_or(0);
        let mut grown = self.silence.grown(budget.floor(), held);
        grown.truncate(AT_ONCE);
        let mut failed = Vec::new();
        for port in grown {
            match self.reopen(port) {
                Ok(worker) => tracing::info!(
                    port = port.0,
                    worker = worker.0,
                    frames = held(port),
                    "silent: opened again to give its frames back"
                ),
                Err(WorkersError::WorkerSilent(worker)) => return Err(WorkersError::WorkerSilent(worker)),
                Err(error) => failed.push(NotReopened { port, error }),
            }
        }
        Ok(failed)
    }

    /// Closes a port and opens it again with the same number and worker.
    fn reopen(&mut self, port: PortId) -> Result<WorkerId, WorkersError> {
        let Some(info) = self.ports.remove(port) else {
            return Err(WorkersError::NotTaken(format!("port {port} is not open")));
        };
        let rings = self.take_from_worker(port, info.worker)?;
        let ifindex = rings.as_ref().map(heddle_io::XdpPort::ifindex);
        if let Some(rings) = rings {
            self.context.close(rings);
        }
        let opened = match ifindex {
            Some(ifindex) => self.open_rings(&info, ifindex, port),
            None => Err(WorkersError::NotTaken(format!(
                "worker {} did not have port {port}",
                info.worker
            ))),
        };
        match opened {
            Ok(worker) => {
                self.ports.insert(port, info);
                Ok(worker)
            }
            Err(error) => {
                self.give_back(port);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silent_ports_that_have_grown_are_chosen_the_largest_first() {
        let mut silence = Silence::default();
        let held = |port: PortId| [64, 128, 512, 512, 64][usize::from(port.0)];
        let grown = |silence: &Silence| silence.grown(64, held).iter().map(|p| p.0).collect::<Vec<_>>();
        let look = |silence: &mut Silence, packets: [u64; 5]| {
            silence.look((0..).map(PortId).zip(packets));
        };
        look(&mut silence, [1, 2, 3, 4, 5]);
        look(&mut silence, [1, 2, 3, 4, 5]);
        assert_eq!(grown(&silence), [0u16; 0], "not silent for long enough");
        look(&mut silence, [1, 2, 3, 9, 5]);
        assert_eq!(grown(&silence), [2, 1], "0 and 4 have not grown, 3 is not silent");
        look(&mut silence, [1, 2, 3, 9, 5]);
        look(&mut silence, [1, 2, 3, 9, 5]);
        assert_eq!(grown(&silence), [3, 2, 1]);
        silence.look([(PortId(2), 3)].into_iter());
        silence.look([(PortId(1), 2), (PortId(2), 3)].into_iter());
        assert_eq!(grown(&silence), [2], "1 was closed meanwhile: its silence begins anew");
    }
}
