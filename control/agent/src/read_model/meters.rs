//! The share of busy turns of each worker, sampled once a second.

use std::sync::Arc;

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
    pub(super) samples: Vec<TurnSample>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TurnSample {
    /// All turns so far.
    turns: u64,
    /// The turns so far in which the worker found packets.
    busy: u64,
    /// The share of busy turns between the last two samples, from 0 to 1.
    pub(super) ratio: f64,
}

impl Meters {
    /// Starts with a sample of zeros for each worker.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            samples: vec![TurnSample::default(); workers],
        }
    }

    /// Samples the counters of all workers. The controller calls it once a second, through the read model.
    pub(super) fn sample(&mut self, workers: &[WorkerView]) {
        for (sample, worker) in self.samples.iter_mut().zip(workers) {
            let now = worker.counters.totals();
            let (turns, busy) = (now.turns - sample.turns, now.busy_turns - sample.busy);
            let ratio = if turns == 0 { 0.0 } else { busy as f64 / turns as f64 };
            *sample = TurnSample {
                turns: now.turns,
                busy: now.busy_turns,
                ratio,
            };
        }
    }
}
