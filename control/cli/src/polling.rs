//! The pauses of commands that ask the agent again and again, until Ctrl-C.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// A timer and Ctrl-C. The first tick comes at once.
#[derive(Debug)]
pub struct Polling {
    timer: Interval,
    /// One stream from the beginning: it also reports a Ctrl-C that came while the command was busy.
    interrupt: Signal,
}

impl Polling {
    /// Starts a timer, and listens for Ctrl-C from now on.
    ///
    /// # Errors
    /// The signal handler cannot be installed.
    pub fn start(every: Duration) -> io::Result<Self> {
        let mut timer = interval(every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            timer,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next tick. Returns false at Ctrl-C, also at one since the last call.
    pub async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => false,
            _ = self.timer.tick() => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal as Number, raise};

    use super::*;

    #[tokio::test]
    async fn an_interrupt_between_two_pauses_is_not_lost() {
        let mut polling = Polling::start(Duration::from_millis(1)).unwrap();
        assert!(polling.next().await);
        // The interrupt is delivered while the command is busy with an answer.
        let mut delivered = signal(SignalKind::interrupt()).unwrap();
        raise(Number::SIGINT).unwrap();
        delivered.recv().await.unwrap();
        assert!(!polling.next().await);
    }
}
