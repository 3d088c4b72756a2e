//! The entry of one datagram in the table.

use heddle_flow::{FlowKey, Millis};
use heddle_port::PortId;

use super::held::HeldQueue;
use super::part::DatagramKey;
use super::spans::Spans;

/// The state of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// The first fragment has not arrived.
    Waiting,
    /// The first fragment has arrived with this flow key, and was not refused so far.
    Passes(FlowKey),
    /// The first fragment has arrived with this flow key, and was dropped or answered.
    Refused(FlowKey),
    /// Two fragments of the datagram overlap.
    Overlapped,
}

/// The entry of one datagram.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) key: DatagramKey,
    pub(super) state: State,
    /// The received octet ranges.
    pub(super) spans: Spans,
    /// The fragments that are held until the first one arrives.
    pub(super) held: HeldQueue,
    /// The port where the entry's first received fragment came in.
    pub(super) port: PortId,
    /// The share that the entry counts against.
    pub(super) share: u8,
    /// The time at which the entry is removed.
    pub(super) due: Millis,
    /// The time at which a fragment was received last.
    pub(super) seen: Millis,
    pub(super) serial: u32,
    /// The next entry in the bucket, or in the list of free entries.
    pub(super) next: u16,
    pub(super) used: bool,
}

impl Datagram {
    /// Makes an unused entry, which `next` follows in the list of free entries.
    pub(super) const fn unused(next: u16) -> Self {
        Self {
            key: DatagramKey::UNUSED,
            state: State::Waiting,
            spans: Spans::new(),
            held: HeldQueue::EMPTY,
            port: PortId(0),
            share: 0,
            due: Millis(0),
            seen: Millis(0),
            serial: 0,
            next,
            used: false,
        }
    }
}
