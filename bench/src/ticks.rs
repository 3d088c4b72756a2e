//! Ticks of the processor's time stamp counter, and how many of them make a nanosecond.
//!
//! `quanta` reads the counter (`rdtsc` is `unsafe`, which has no place in this crate). Where there is no invariant counter it
//! reads the system's clock; [`Ticks::is_tsc`] says so, and a tick is then a nanosecond.

use std::time::{Duration, Instant};

use quanta::Clock;

/// The counter, calibrated.
#[derive(Clone, Debug)]
pub struct Ticks {
    clock: Clock,
    per_ns: f64,
}

impl Ticks {
    /// Measures the counter's frequency against the system's clock, for 50 ms.
    #[must_use]
    pub fn calibrate() -> Self {
        let clock = Clock::new();
        let (began, first) = (Instant::now(), clock.raw());
        while began.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let (last, took) = (clock.raw(), began.elapsed());
        let per_ns = last.wrapping_sub(first) as f64 / took.as_nanos() as f64;
        Self { clock, per_ns }
    }

    /// What the counter stands at.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.raw()
    }

    /// So many ticks as a time.
    #[must_use]
    pub fn duration(&self, ticks: u64) -> Duration {
        Duration::from_nanos((ticks as f64 / self.per_ns) as u64)
    }

    /// So many ticks in nanoseconds.
    #[must_use]
    pub fn nanos(&self, ticks: f64) -> f64 {
        ticks / self.per_ns
    }

    /// The counter's frequency in MHz.
    #[must_use]
    pub fn mhz(&self) -> f64 {
        self.per_ns * 1000.0
    }

    /// Whether the ticks are the processor's own, and not nanoseconds of the system's clock.
    #[must_use]
    pub fn is_tsc(&self) -> bool {
        (self.per_ns - 1.0).abs() > 0.01
    }
}
