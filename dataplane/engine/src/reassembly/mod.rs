//! Virtual reassembly: gives later fragments, which have no ports, the flow of the first fragment of their datagram.
//!
//! No datagram is put together. [`Datagrams`] contains, for each datagram with at least one received fragment, the flow
//! key of the first fragment and the received octet ranges. A later fragment is looked up, judged and sent as a packet
//! of that flow. A fragment that arrives before the first one is held until the first one arrives. Each worker has a table
//! of its own, because all fragments of a datagram arrive at one port.
//!
//! Datagrams, held frames and time are limited, and all memory is allocated at the start ([`FragmentConfig`]). Each port has a
//! share: an endpoint above it loses the datagram of its own that received no fragment for longest. When the table is full, the
//! endpoint with the most datagrams loses that one. Neither is searched for: datagrams are linked by share in the order of their
//! last fragment ([`list`]), and shares are ranked by their use ([`ranking`]).
//!
//! A fragment is dropped, with a reason for each case, if
//!
//! - it overlaps another fragment; all later fragments of that datagram are dropped too (RFC 5722, applied to IPv4 as well);
//! - the first fragment of its datagram was not forwarded;
//! - the first fragment did not arrive in time;
//! - there is no room to hold it, or its datagram has too many fragments;
//! - an equal fragment is held already.
//!
//! Any other exact duplicate is handled like the first copy (RFC 8200 section 4.5). An entry is removed as soon as all
//! fragments of its datagram were received, because the identification may be used again at once: IPv4 has only 65,536
//! identifications between two hosts (RFC 6864).

mod datagram;
mod datagrams;
mod held;
mod list;
mod part;
mod ranking;
mod spans;
#[cfg(test)]
mod tests;

pub(crate) use datagram::{Later, Ticket};
pub(crate) use datagrams::Datagrams;
pub(crate) use part::{DatagramKey, Part};

/// The limits of one worker's virtual reassembly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentConfig {
    /// The most datagrams in the table. One endpoint may use a quarter of them.
    pub datagrams: u16,
    /// The most frames of held fragments. One endpoint may use a quarter of them.
    pub held_frames: u16,
    /// Milliseconds for which a fragment is held until the first one of its datagram arrives.
    pub wait_ms: u32,
    /// Milliseconds for which an entry is kept after the first fragment has arrived (Linux: 30 s, `ipfrag_time`).
    pub remember_ms: u32,
}

impl FragmentConfig {
    /// The divisor of a share: the fragments of one port may use a quarter of the datagrams and of the held frames.
    const SHARE: u16 = 4;

    /// Returns the datagrams that one share may have.
    fn datagrams_of_share(&self) -> u16 {
        (self.datagrams / Self::SHARE).max(1)
    }

    /// Returns the held frames that one share may have.
    const fn held_frames_of_share(&self) -> u16 {
        self.held_frames / Self::SHARE
    }
}

/// Counts of received fragments, and the current use of the table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FragmentTotals {
    /// First fragments that passed the overlap check, whatever their verdict was.
    pub first: u64,
    /// Later fragments that were handled as packets of their first fragment's flow.
    pub followed: u64,
    /// Later fragments that were held because the first fragment had not arrived.
    pub waited: u64,
    /// Datagrams in the table now.
    pub datagrams: u64,
    /// Frames of held fragments now.
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
