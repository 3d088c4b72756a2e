//! The times at which the host task compares the kernel's state with the plan.

use std::time::{Duration, Instant};

/// The interval at which everything is compared with the plan, whatever was announced.
pub(crate) const PERIOD: Duration = Duration::from_secs(30);
/// The pause between a notification and the comparison, so that one comparison serves the notifications of one change.
const SETTLE: Duration = Duration::from_millis(50);
/// A comparison on a notification waits this many times as long as the last one took. So on a node whose routes change all the
/// time, comparisons take a tenth of a core at most.
const REST: u32 = 9;
/// The shortest and the longest pause before differences that remain are tried again. It doubles with each attempt.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), PERIOD);

/// The times at which the task compares the kernel's state with the plan.
pub(crate) struct Due {
    /// The next comparison that does not need a notification: the periodic one, or the retry of a failed step.
    pub(crate) periodic: Instant,
    /// The next comparison because of a notification.
    pub(crate) notified: Option<Instant>,
    /// `true` if somebody has changed an nftables table.
    pub(crate) rules_changed: bool,
    /// The earliest time of a comparison because of a notification.
    pub(crate) rest_until: Instant,
    /// The pause before the next retry; `None` while nothing has failed.
    pub(crate) retry_after: Option<Duration>,
}

impl Due {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            periodic: now,
            notified: None,
            rules_changed: false,
            rest_until: now,
            retry_after: None,
        }
    }

    /// Records a notification.
    pub(crate) fn notify(&mut self, rules_changed: bool) {
        self.rules_changed |= rules_changed;
        let at = (Instant::now() + SETTLE).max(self.rest_until);
        self.notified.get_or_insert(at);
    }

    /// Returns the time of the next comparison.
    pub(crate) fn next(&self) -> Instant {
        self.notified.map_or(self.periodic, |at| at.min(self.periodic))
    }

    /// Records that a comparison has ended that began at `began`.
    pub(crate) fn compared(&mut self, began: Instant, failed: bool) {
        let now = Instant::now();
        self.rest_until = now + (now - began) * REST;
        // Notifications that arrived meanwhile, also the ones of the comparison's own changes, ask for another one.
        self.notified = None;
        self.rules_changed = false;
        let (shortest, longest) = RETRY_AFTER;
        self.retry_after = failed.then(|| self.retry_after.map_or(shortest, |pause| (pause * 2).min(longest)));
        self.periodic = now + self.retry_after.unwrap_or(PERIOD);
    }
}
