//! The two things that a fragment's headers name: its datagram, and the octets of the datagram that it carries.

use heddle_flow::Origin;
use heddle_wire::{Ip, L3, Parsed};

/// The key of a datagram (RFC 791 section 3.2, RFC 8200 section 4.5), with the origin where its fragments come in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct DatagramKey {
    src: Ip,
    dst: Ip,
    origin: Origin,
    id: u32,
    /// The protocol in IPv4. In IPv6 it is 0, because the next header may differ from fragment to fragment.
    proto: u8,
}

impl DatagramKey {
    pub(crate) const fn of(p: &Parsed, origin: Origin) -> Self {
        Self {
            src: p.src,
            dst: p.dst,
            origin,
            id: p.fragment_id,
            proto: if matches!(p.l3, L3::V4) { p.proto.0 } else { 0 },
        }
    }
}

/// The octets of its datagram's payload that a fragment carries, and whether it is the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(super) start: u16,
    pub(super) end: u16,
    pub(super) last: bool,
}

impl Part {
    pub(crate) const fn of(p: &Parsed) -> Self {
        Self {
            start: p.fragment_offset,
            // The parser refuses a fragment that ends beyond 65,535.
            end: p.fragment_offset.saturating_add(p.l4_len() as u16),
            last: !p.more_fragments,
        }
    }
}

impl DatagramKey {
    /// The key of an unused entry.
    pub(super) const UNUSED: Self = Self {
        src: Ip::UNSPECIFIED,
        dst: Ip::UNSPECIFIED,
        origin: Origin::HOST,
        id: 0,
        proto: 0,
    };
}
