//! The entry of one datagram in the table, a reference to it, and the next steps for its fragments.

use heddle_flow::{FlowKey, Millis};

use super::held::HeldQueue;
use super::part::{DatagramKey, Part};
use super::spans::Spans;
use crate::reason::DropReason;

/// A reference to a datagram's entry, valid until the entry is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    pub(super) place: u16,
    /// The entry's serial number, which changes when the entry is used for another datagram.
    pub(super) serial: u32,
    /// The fragment that was registered.
    pub(super) part: Part,
}

/// The next step for a later fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Later {
    /// Handle it as a packet of the first fragment's flow.
    Follow(FlowKey),
    /// Hold it until the first fragment arrives, by `Datagrams::hold`.
    Wait(Ticket),
    /// Drop it.
    Drop(DropReason),
}

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
    /// The number of the port where the entry's first received fragment came in. The entry counts against its share.
    pub(super) share: u16,
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
            share: 0,
            due: Millis(0),
            seen: Millis(0),
            serial: 0,
            next,
            used: false,
        }
    }
}
