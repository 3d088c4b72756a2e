//! The loop around turns: polls while there is work, and sleeps when there was none for a while.
//!
//! A sleeping worker blocks on its ports and its eventfd. It needs no old snapshot, so it counts as having acknowledged every
//! one; it takes the newest before its first packet. A port that cannot wake it, such as one in memory, keeps it awake.

use std::thread;
use std::time::Duration;

use heddle_flow::Millis;
use heddle_port::Port;

use super::Worker;

/// Flow records that a worker checks for expiry when it wakes without work.
const EXPIRE_WHEN_IDLE: u32 = 4096;

/// The longest sleep while a port has packets that it could not send.
const RETRY: Duration = Duration::from_millis(1);

impl<P: Port> Worker<P> {
    /// Turns until control stops the worker. `clock` is read once a turn and must not go back.
    pub fn run(&mut self, clock: impl Fn() -> Millis) {
        let idle_after = u64::try_from(self.config.idle_after.as_millis()).unwrap_or(u64::MAX);
        let mut last_busy = clock();
        while !self.stopped {
            let now = clock();
            if self.turn(now).is_busy() {
                last_busy = now;
            } else if now.since(last_busy) >= idle_after && self.can_sleep() {
                if self.sleep() {
                    last_busy = clock();
                } else {
                    let expired = self.flows.expire(clock(), EXPIRE_WHEN_IDLE);
                    self.counters.expired.add(u64::from(expired));
                }
            } else {
                // The process that was just sent a packet may be waiting for this core. Without a free core it would not run
                // before this worker sleeps. The call costs little if no process waits.
                thread::yield_now();
            }
        }
    }

    /// Returns true if every port can end the sleep.
    fn can_sleep(&self) -> bool {
        self.ports.ports().iter().all(|queued| queued.wakes)
    }

    /// Sleeps until there is work (true) or the longest sleep is over (false).
    fn sleep(&mut self) -> bool {
        self.reader.sleep();
        let sleeper = self.inbox.sleeper();
        sleeper.fall_asleep();
        // Work that was left before the flag was set comes with no wake-up, so the queues are checked once more.
        let woken = if self.inbox.is_empty() && self.messages.is_empty() {
            self.counters.sleeps.add(1);
            // The kernel reports no event when a full TX ring has room again.
            let unsent = self.ports.ports().iter().any(|queued| queued.port.unsent());
            let woken = sleeper.wait(if unsent { RETRY } else { self.config.sleep_at_most });
            if woken {
                self.counters.wakeups.add(1);
            }
            woken
        } else {
            true
        };
        self.inbox.sleeper().wake_up();
        self.reader.wake();
        woken
    }
}
