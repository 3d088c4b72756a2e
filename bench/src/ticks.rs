//! The processor's time stamp counter, and its frequency.
//!
//! `quanta` reads the counter, because `rdtsc` needs `unsafe`, which this crate must not contain. On a machine without an invariant
//! counter it reads the system's clock: a tick is then a nanosecond, and [`Ticks::is_tsc`] returns false.

use std::time::{Duration, Instant};

use quanta::Clock;

/// The calibrated counter.
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

    /// Returns the counter's value.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.raw()
    }

    /// Converts ticks to a duration.
    #[must_use]
    pub fn duration(&self, ticks: u64) -> Duration {
        Duration::from_nanos((ticks as f64 / self.per_ns) as u64)
    }

    /// Converts ticks to nanoseconds.
    #[must_use]
    pub fn nanos(&self, ticks: f64) -> f64 {
        ticks / self.per_ns
    }

    /// Returns the counter's frequency in MHz.
    #[must_use]
    pub fn mhz(&self) -> f64 {
        self.per_ns * 1000.0
    }

    /// Returns true if the ticks are of the processor's counter and not of the system's clock.
    #[must_use]
    pub fn is_tsc(&self) -> bool {
        (self.per_ns - 1.0).abs() > 0.01
    }
}
