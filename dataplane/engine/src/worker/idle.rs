//! The loop around turns: poll while there is work, sleep when there has been none for a while.
//!
//! Asleep, a worker waits on its ports and its eventfd. It counts as having every snapshot and takes the newest
//! before its first packet. A port that cannot wake it (one in memory) keeps it awake.

use std::thread;
use std::time::Duration;

use heddle_flow::Millis;
use heddle_port::Port;

use super::Worker;

/// Flow records that a worker looks at for expired ones when it wakes with nothing to do.
const EXPIRE_WHEN_IDLE: u32 = 4096;

/// How long it sleeps at a time while a port could not send all that it had.
const RETRY: Duration = Duration::from_millis(1);

impl<P: Port> Worker<P> {
    /// Turns until control stops it. `clock` is read once a turn and does not go back.
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
                // A pod's process that was just sent a packet may wait for this very core: without other free cores it
                // would get it when this worker falls asleep. Costs nothing where nobody waits.
                thread::yield_now();
            }
        }
    }

    fn can_sleep(&self) -> bool {
        self.ports.slots().iter().all(|s| s.wakes)
    }

    /// Sleeps until there is something to do (true) or the longest time is over (false).
    fn sleep(&mut self) -> bool {
        self.reader.sleep();
        let sleeper = self.inbox.sleeper();
        sleeper.fall_asleep();
        // Who left something before it saw this worker asleep will not wake it.
        let woken = if self.inbox.is_empty() && self.messages.is_empty() {
            self.counters.sleeps.add(1);
            // Nothing wakes a worker when a ring that the kernel left full has room again.
            let unsent = self.ports.slots().iter().any(|s| s.port.unsent());
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
