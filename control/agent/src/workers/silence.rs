//! The record of silent ports, from which [`super::rings`] chooses the ports to shrink.

use std::collections::BTreeMap;

use heddle_port::PortId;

/// The number of samples without a packet after which a port counts as silent.
const SILENT_SAMPLES: u32 = 2;

/// The last sample of each open port.
#[derive(Debug, Default)]
pub(super) struct Silence(BTreeMap<PortId, PortSample>);

#[derive(Debug, Clone, Copy)]
struct PortSample {
    /// The packets that the port has received and sent so far.
    packets: u64,
    /// The number of samples since the last packet.
    silent: u32,
}

impl Silence {
    /// Records the packets that each port has received and sent so far. Ports that are not in `ports` are forgotten.
    pub(super) fn record(&mut self, ports: impl Iterator<Item = (PortId, u64)>) {
        let before = std::mem::take(&mut self.0);
        self.0 = ports
            .map(|(port, packets)| {
                let silent = match before.get(&port) {
                    Some(sample) if sample.packets == packets => sample.silent + 1,
                    _ => 0,
                };
                (port, PortSample { packets, silent })
            })
            .collect();
    }

    /// Returns the silent ports that hold more than `rest` frames, sorted by their number of frames, the largest first.
    pub(super) fn grown(&self, rest: u32, held: impl Fn(PortId) -> u32) -> Vec<PortId> {
        let mut grown: Vec<(u32, PortId)> = self
            .0
            .iter()
            .filter(|(_, sample)| sample.silent >= SILENT_SAMPLES)
            .map(|(port, _)| (held(*port), *port))
            .filter(|(held, _)| *held > rest)
            .collect();
        grown.sort_unstable_by(|a, b| b.cmp(a));
        grown.into_iter().map(|(_, port)| port).collect()
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
        let record = |silence: &mut Silence, packets: [u64; 5]| {
            silence.record((0..).map(PortId).zip(packets));
        };
        record(&mut silence, [1, 2, 3, 4, 5]);
        record(&mut silence, [1, 2, 3, 4, 5]);
        assert_eq!(grown(&silence), [0u16; 0], "not silent for long enough");
        record(&mut silence, [1, 2, 3, 9, 5]);
        assert_eq!(grown(&silence), [2, 1], "0 and 4 have not grown, 3 is not silent");
        record(&mut silence, [1, 2, 3, 9, 5]);
        record(&mut silence, [1, 2, 3, 9, 5]);
        assert_eq!(grown(&silence), [3, 2, 1]);
        silence.record([(PortId(2), 3)].into_iter());
        silence.record([(PortId(1), 2), (PortId(2), 3)].into_iter());
        assert_eq!(
            grown(&silence),
            [2],
            "1 was closed meanwhile: its silence starts again at zero"
        );
    }
}
