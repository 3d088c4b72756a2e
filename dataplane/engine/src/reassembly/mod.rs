//! Virtual reassembly: later fragments have no ports, so they follow the first of their datagram, in whatever order they come.
//!
//! Nothing is put together. [`Datagrams`] remembers, for each datagram of which a fragment has come, the flow key of its first
//! fragment and which parts were seen; a later fragment is then looked up, judged and sent as a packet of that flow. What
//! comes before its first is held until that one comes. One table a worker: all fragments of a datagram come in by one port.
//!
//! Everything is bounded, and its memory is allocated at the start ([`FragmentConfig`]): datagrams, frames held, the share of
//! each endpoint in both, time. Who has too much loses its own oldest datagram; when all is used up, who has most does.
//!
//! Dropped, each for its own reason: fragments that overlap others, and from then on their whole datagram (RFC 5722,
//! for IPv4 too); those of a datagram whose first was not forwarded; those whose first does not come in time; those that
//! there is no room for. An exact duplicate is tolerated (RFC 8200 section 4.5): it goes the way of the first copy, unless that
//! is held still, for then the second one is dropped. A datagram is forgotten as soon as all of it was seen, because its
//! identification may come back at once: IPv4 has 65,536 of them between two hosts (RFC 6864).

mod datagrams;
mod held;
mod list;
mod part;
mod spans;
#[cfg(test)]
mod tests;

pub(crate) use datagrams::{Datagrams, Later, Ticket};
pub(crate) use part::{DatagramKey, Part};

/// The limits of one worker's virtual reassembly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentConfig {
    /// Datagrams that it remembers at once.
    pub datagrams: u16,
    /// Frames of fragments that wait for their first. An endpoint may have a quarter of either.
    pub held_frames: u16,
    /// Milliseconds for which a fragment waits for the first one of its datagram.
    pub wait_ms: u32,
    /// Milliseconds for which a datagram is remembered whose first fragment has come (Linux: 30 s, `ipfrag_time`).
    pub remember_ms: u32,
}

/// The counts of fragments, and the current use of the table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FragmentTotals {
    /// First fragments that went their way, whatever became of them there.
    pub first: u64,
    /// Later fragments that followed the first of their datagram.
    pub followed: u64,
    /// Those that had to wait for it.
    pub waited: u64,
    /// Datagrams that are remembered.
    pub datagrams: u64,
    /// Frames of fragments that wait.
    pub held_frames: u64,
}

impl Default for FragmentConfig {
    fn default() -> Self {
        Self {
            datagrams: 1024,
            held_frames: 512,
            wait_ms: 1000,
            remember_ms: 30_000,
        }
    }
}
