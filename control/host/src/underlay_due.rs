//! The times at which the host task looks at the underlay.

use std::time::{Duration, Instant};

/// The interval at which everything is looked at, whatever was announced: the kernel announces no learned path MTU, and notifications
/// can be lost.
const PERIOD: Duration = Duration::from_secs(30);
/// The pause between a notification and the look, so that one look serves the notifications of one change.
const SETTLE: Duration = Duration::from_millis(5);
/// A look on a notification waits this many times as long as the last one took, so looks take about a tenth of a core at most.
const REST: u32 = 9;
/// The longest pause before a look at the neighbors alone. With 5,000 neighbors such a look takes about 10 ms.
const NEIGHBORS_WITHIN: Duration = Duration::from_millis(100);
/// The longest pause before a whole look. With 5,000 nodes it takes about 30 ms.
const ROUTES_WITHIN: Duration = Duration::from_millis(250);
/// The shortest and the longest pause before a failed step is tried again. It doubles with each attempt.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), PERIOD);

/// The times of the next looks.
#[derive(Debug)]
pub(crate) struct UnderlayDue {
    /// The next whole look that does not need a notification: the periodic one, or a retry.
    periodic: Instant,
    /// The next whole look because of a notification.
    routes: Option<Instant>,
    /// The next look at the neighbors alone.
    neighbors: Option<Instant>,
    /// The earliest time of a whole look because of a notification.
    rest_until: Instant,
    /// The pause before the next retry; `None` while nothing has failed.
    retry_after: Option<Duration>,
}

impl UnderlayDue {
    /// The first look is due at once.
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            periodic: now,
            routes: None,
            neighbors: None,
            rest_until: now,
            retry_after: None,
        }
    }

    /// Records a change of anything but neighbors.
    pub(crate) fn notify_routes(&mut self, now: Instant) {
        let at = (now + SETTLE).max(self.rest_until).min(now + ROUTES_WITHIN);
        self.routes.get_or_insert(at);
    }

    /// Records a change of neighbors.
    pub(crate) fn notify_neighbors(&mut self, now: Instant) {
        let at = (now + SETTLE).max(self.rest_until).min(now + NEIGHBORS_WITHIN);
        self.neighbors.get_or_insert(at);
    }

    /// Returns the time of the next look.
    pub(crate) fn next(&self) -> Instant {
        let notified = self.routes.into_iter().chain(self.neighbors).min();
        notified.map_or(self.periodic, |at| at.min(self.periodic))
    }

    /// Returns `true` if a look at this time is a whole one, and `false` if only the neighbors are due.
    pub(crate) fn is_whole(&self, now: Instant) -> bool {
        now >= self.periodic || self.routes.is_some_and(|at| now >= at)
    }

    /// Records a look: its beginning, its end, and `true` if something has failed.
    pub(crate) fn looked(&mut self, began: Instant, ended: Instant, failed: bool) {
        let is_whole = self.is_whole(began);
        self.rest_until = ended + (ended - began) * REST;
        self.neighbors = None;
        if is_whole {
            self.routes = None;
            let (shortest, longest) = RETRY_AFTER;
            self.retry_after = failed.then(|| self.retry_after.map_or(shortest, |pause| (pause * 2).min(longest)));
            self.periodic = ended + self.retry_after.unwrap_or(PERIOD);
        } else if failed {
            // The whole look that tries again may be half a minute away.
            self.periodic = self.periodic.min(ended + RETRY_AFTER.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Makes the state after a first look of this length, and the time of its end.
    fn after_a_look(took: Duration) -> (UnderlayDue, Instant) {
        let began = Instant::now();
        let mut due = UnderlayDue::new(began);
        assert!(due.next() == began && due.is_whole(began));
        due.looked(began, began + took, false);
        (due, began + took)
    }

    #[test]
    fn a_look_follows_a_notification_at_once_and_later_notifications_do_not_delay_it() {
        let (mut due, now) = after_a_look(Duration::ZERO);
        assert_eq!(due.next(), now + PERIOD);
        due.notify_neighbors(now);
        due.notify_neighbors(now + ms(4));
        assert_eq!(due.next(), now + SETTLE);
        assert!(!due.is_whole(now + SETTLE));
        due.notify_routes(now + ms(1));
        assert_eq!(due.next(), now + SETTLE);
        assert!(!due.is_whole(now + SETTLE) && due.is_whole(now + ms(6)));
        due.looked(now + SETTLE, now + SETTLE, false);
        assert_eq!(due.next(), now + ms(6), "the routes are still due");
        due.looked(now + ms(6), now + ms(6), false);
        assert_eq!(due.next(), now + ms(6) + PERIOD);
    }

    #[test]
    fn looks_that_take_long_rest_long_within_bounds() {
        let (mut due, now) = after_a_look(ms(20));
        due.notify_routes(now);
        assert_eq!(due.next(), now + ms(180));
        let (mut due, now) = after_a_look(ms(80));
        due.notify_routes(now);
        assert_eq!(due.next(), now + ms(250));
        due.notify_neighbors(now);
        assert_eq!(due.next(), now + ms(100));
    }

    #[test]
    fn what_failed_is_tried_again_with_growing_pauses() {
        let (mut due, mut now) = after_a_look(Duration::ZERO);
        due.notify_neighbors(now);
        due.looked(now + SETTLE, now + SETTLE, true);
        assert_eq!(due.next(), now + SETTLE + ms(1000));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            now = due.next();
            due.looked(now, now, true);
            pauses.push((due.next() - now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        now = due.next();
        due.looked(now, now, false);
        assert_eq!(due.next(), now + PERIOD);
    }
}
