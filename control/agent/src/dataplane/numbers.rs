//! Numbers of pods' ports: after those of the host port's queues, each used again as late as possible.

use std::collections::BTreeSet;

use heddle_port::PortNo;

use crate::config::MAX_WORKERS;

/// The number of the host port's first queue; queue `w` belongs to worker `w`.
pub const FIRST_HOST: PortNo = PortNo(0);

/// Which numbers of pods' ports are in use.
#[derive(Debug)]
pub struct PortNumbers {
    count: u16,
    last: u16,
    used: BTreeSet<u16>,
}

impl PortNumbers {
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
    pub fn take(&mut self) -> Option<PortNo> {
        let free = (1..=self.count)
            .map(|step| (self.last + step) % self.count)
            .find(|n| !self.used.contains(n))?;
        self.used.insert(free);
        self.last = free;
        Some(PortNo(MAX_WORKERS + free))
    }

    /// Gives a number back.
    pub fn give_back(&mut self, port: PortNo) {
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
        let mut numbers = PortNumbers::new(3);
        assert_eq!(numbers.take(), Some(PortNo(64)));
        numbers.give_back(PortNo(64));
        assert_eq!(
            [numbers.take(), numbers.take(), numbers.take()],
            [Some(PortNo(65)), Some(PortNo(66)), Some(PortNo(64))]
        );
        assert_eq!(numbers.take(), None);
        numbers.give_back(PortNo(66));
        numbers.give_back(PortNo(0));
        assert_eq!(numbers.take(), Some(PortNo(66)));
    }
}
