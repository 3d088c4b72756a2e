//! The numbers of pods' ports. They follow the numbers of the host port's queues, and a released number is reused as late
//! as possible.

use std::collections::BTreeSet;

use heddle_port::PortId;

use heddle_config::MAX_WORKERS;

/// The number of the host port's first queue; queue `w` belongs to worker `w`.
pub const FIRST_HOST: PortId = PortId(0);

/// The port numbers that are in use by pods.
#[derive(Debug)]
pub struct PortIds {
    /// The maximum number of pods.
    count: u16,
    /// The number allocated last.
    last: u16,
    used: BTreeSet<u16>,
}

impl PortIds {
    /// Starts with numbers for `count` pods, all free.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            count,
            last: count.saturating_sub(1),
            used: BTreeSet::new(),
        }
    }

    /// Allocates the next free number after the last one; `None` if all are in use.
    pub fn allocate(&mut self) -> Option<PortId> {
        let free = (1..=self.count)
            .map(|step| (self.last + step) % self.count)
            .find(|n| !self.used.contains(n))?;
        self.used.insert(free);
        self.last = free;
        Some(PortId(MAX_WORKERS + free))
    }

    /// Returns the number of a queue of the uplink.
    #[must_use]
    pub fn of_uplink(&self, queue: u16) -> PortId {
        PortId(MAX_WORKERS + self.count + queue)
    }

    /// Releases a number. The number of a queue of the host port or the uplink is ignored.
    pub fn release(&mut self, port: PortId) {
        if let Some(n) = port.0.checked_sub(MAX_WORKERS) {
            self.used.remove(&n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_number_is_reused_last() {
        let mut numbers = PortIds::new(3);
        assert_eq!(numbers.allocate(), Some(PortId(64)));
        numbers.release(PortId(64));
        assert_eq!(
            [numbers.allocate(), numbers.allocate(), numbers.allocate()],
            [Some(PortId(65)), Some(PortId(66)), Some(PortId(64))]
        );
        assert_eq!(numbers.allocate(), None);
        numbers.release(PortId(66));
        numbers.release(PortId(0));
        assert_eq!(numbers.allocate(), Some(PortId(66)));
    }
}
