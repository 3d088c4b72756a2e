//! The histogram of the times that changes take until every worker has them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heddle_proto::status::ChangeTimes;

/// The upper bounds of the classes, in microseconds. They are close together where a change without waiting lies (2 ms of
/// coalescing, compilation, and a turn of each worker).
const BOUNDS: [u64; 19] = [
    500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_500, 10_000, 15_000, 20_000, 50_000, 100_000, 110_000,
    150_000, 250_000, 1_000_000, 10_000_000,
];

/// The histogram. The controller adds, and readers read without a lock: sums that are a moment apart are good enough.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BOUNDS.len()],
    slower: AtomicU64,
    sum: AtomicU64,
}

impl Histogram {
    /// Adds a change.
    pub(super) fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS.partition_point(|bound| *bound < micros);
        self.counts
            .get(class)
            .unwrap_or(&self.slower)
            .fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// Returns the counts as `status` has them.
    pub(super) fn read(&self) -> ChangeTimes {
        let mut count = 0;
        let up_to_micros = BOUNDS
            .iter()
            .zip(&self.counts)
            .map(|(bound, class)| {
                count += class.load(Ordering::Relaxed);
                (*bound, count)
            })
            .collect();
        ChangeTimes {
            up_to_micros,
            count: count + self.slower.load(Ordering::Relaxed),
            sum_micros: self.sum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_its_class_and_in_all_above() {
        let histogram = Histogram::default();
        for micros in [500, 501, 3_000, 20_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let times = histogram.read();
        assert_eq!((times.count, times.sum_micros), (4, 20_004_001));
        assert_eq!(times.up_to_micros[..4], [(500, 1), (1_000, 2), (2_000, 2), (3_000, 3)]);
        assert_eq!(times.up_to_micros.last(), Some(&(10_000_000, 3)));
    }
}
