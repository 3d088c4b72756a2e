//! The share of busy turns of each worker, sampled once a second.

use std::sync::Arc;
use std::time::Instant;

use heddle_engine::WorkerCounters;
use heddle_tables::WorkerId;

/// A worker as readers see it.
pub(super) struct WorkerView {
    pub(super) id: WorkerId,
    /// The core that the worker is pinned to.
    pub(super) core: usize,
    pub(super) counters: Arc<WorkerCounters>,
}

/// The last sample of each worker.
#[derive(Debug)]
pub(super) struct Meters {
    /// The time of the last sample, or of the start.
    pub(super) sampled_at: Instant,
    pub(super) samples: Vec<TurnSample>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct TurnSample {
    /// All turns so far.
    turns: u64,
    /// The turns so far in which the worker found packets.
    busy: u64,
    /// The share of busy turns between the last two samples, from 0 to 1.
    pub(super) ratio: f64,
    /// The time of the last sample that had new turns, or of the start.
    pub(super) turned_at: Instant,
}

impl Meters {
    /// Starts with a sample of zeros for each worker.
    pub(super) fn new(workers: usize) -> Self {
        let now = Instant::now();
        let zero = TurnSample {
            turns: 0,
            busy: 0,
            ratio: 0.0,
            turned_at: now,
        };
        Self {
            sampled_at: now,
            samples: vec![zero; workers],
        }
    }

    /// Samples the counters of all workers. The controller calls it once a second, through the read model.
    pub(super) fn sample(&mut self, workers: &[WorkerView]) {
        self.sampled_at = Instant::now();
        for (sample, worker) in self.samples.iter_mut().zip(workers) {
            let now = worker.counters.totals();
            let (turns, busy) = (now.turns - sample.turns, now.busy_turns - sample.busy);
            let ratio = if turns == 0 { 0.0 } else { busy as f64 / turns as f64 };
            *sample = TurnSample {
                turns: now.turns,
                busy: now.busy_turns,
                ratio,
                turned_at: if turns == 0 { sample.turned_at } else { self.sampled_at },
            };
        }
    }
}
