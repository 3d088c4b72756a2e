//! The clock of the flow table.

use heddle_flow::Millis;

/// Returns the time since the machine was booted, including the time in which it was suspended (`CLOCK_BOOTTIME`). So
/// the times in the flow table stay valid when the agent restarts.
#[must_use]
pub fn clock() -> Millis {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
    Millis(seconds * 1000 + millis)
}
