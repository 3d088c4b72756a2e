//! The time from the receipt of a batch of changes to the acknowledgement of its tables by every worker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The batches that are on their way to the workers.
#[derive(Debug, Default)]
pub(super) struct ChangeTimes {
    /// The receipt of each batch that the model has and no tables have.
    applied: Vec<Instant>,
    /// The version of the tables that each batch is in, and its receipt.
    published: VecDeque<(u64, Instant)>,
}

impl ChangeTimes {
    /// Records that a batch is in the model.
    pub(super) fn add_applied(&mut self, received_at: Instant) {
        self.applied.push(received_at);
    }

    /// Records that tables with all batches of the model were published.
    pub(super) fn set_published(&mut self, version: u64) {
        self.published
            .extend(self.applied.drain(..).map(|received_at| (version, received_at)));
    }

    /// Forgets the batches of the model, because the tables are the same with and without them.
    pub(super) fn forget_applied(&mut self) {
        self.applied.clear();
    }

    /// Removes the batches whose tables every worker has, and returns the time that each took.
    pub(super) fn take_acknowledged(&mut self, version: u64, now: Instant) -> impl Iterator<Item = Duration> {
        let count = self.published.partition_point(|(published, _)| *published <= version);
        self.published
            .drain(..count)
            .map(move |(_, received_at)| now.saturating_duration_since(received_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_once_when_its_tables_are_acknowledged() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut times = ChangeTimes::default();
        times.add_applied(at(0));
        times.forget_applied();
        times.add_applied(at(1));
        times.add_applied(at(2));
        times.set_published(5);
        times.add_applied(at(3));
        times.set_published(6);
        assert_eq!(times.take_acknowledged(4, at(10)).count(), 0);
        let millis = |times: &mut ChangeTimes, version| -> Vec<u128> {
            times
                .take_acknowledged(version, at(10))
                .map(|time| time.as_millis())
                .collect()
        };
        assert_eq!(millis(&mut times, 5), [9, 8]);
        assert_eq!(millis(&mut times, 9), [7]);
        assert_eq!(millis(&mut times, 9), [0; 0]);
    }
}
