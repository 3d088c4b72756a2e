//! The one place from which this crate takes its atomics, so that `--cfg loom` swaps them for loom's.
//!
//! # Ordering
//!
//! Three protocols are built on these words; each is described where it is implemented:
//! the sequence lock (`seqlock`), the bucket's lock and version (`bucket`), the free lists (`freelist`).
//! The models that check them are in `loom_tests`:
//! `RUSTFLAGS="--cfg loom" cargo test -p heddle-flow --release --lib loom_tests`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// How often a waiter spins before it gives its core away. The holder of a lock may be a worker on the same core.
#[cfg(not(loom))]
const SPINS: u32 = 64;

/// One step of waiting for another thread, the `round`-th in a row.
#[cfg(not(loom))]
#[inline]
pub(crate) fn relax(round: u32) {
    if round < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// One step of waiting for another thread.
#[cfg(loom)]
pub(crate) fn relax(_round: u32) {
    loom::thread::yield_now();
}
