//! Numbers of pods' ports: after those of the host port's queues, each used again as late as possible.

use std::collections::BTreeSet;

use heddle_port::PortId;

use heddle_config::MAX_WORKERS;

/// The number of the host port's first queue; queue `w` belongs to worker `w`.
pub const FIRST_HOST: PortId = PortId(0);

/// Which numbers of pods' ports are in use.
#[derive(Debug)]
pub struct PortIds {
    count: u16,
    last: u16,
    used: BTreeSet<u16>,
}

impl PortIds {
    /// Room for that many pods.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            count,
            last: count.saturating_sub(1),
            used: BTreeSet::new(),
        }
    }

    /// The next number; `None`: all are in use.
    pub fn take(&mut self) -> Option<PortId> {
        let free = (1..=self.count)
            .map(|step| (self.last + step) % self.count)
            .find(|n| !self.used.contains(n))?;
        self.used.insert(free);
        self.last = free;
        Some(PortId(MAX_WORKERS + free))
    }

    /// Gives a number back.
    pub fn give_back(&mut self, port: PortId) {
        if let Some(n) = port.0.checked_sub(MAX_WORKERS) {
            self.used.remove(&n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_round() {
        let mut numbers = PortIds::new(3);
        assert_eq!(numbers.take(), Some(PortId(64)));
        numbers.give_back(PortId(64));
        assert_eq!(
            [numbers.take(), numbers.take(), numbers.take()],
            [Some(PortId(65)), Some(PortId(66)), Some(PortId(64))]
        );
        assert_eq!(numbers.take(), None);
        numbers.give_back(PortId(66));
        numbers.give_back(PortId(0));
        assert_eq!(numbers.take(), Some(PortId(66)));
    }
}
