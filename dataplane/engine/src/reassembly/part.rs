//! A fragment's place: the datagram that it belongs to, and its part of that datagram.

use heddle_flow::Origin;
use heddle_wire::{Ip, L3, Parsed};

/// The name of a datagram (RFC 791 section 3.2, RFC 8200 section 4.5), where it comes in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct DatagramKey {
    src: Ip,
    dst: Ip,
    origin: Origin,
    id: u32,
    /// Of IPv4 alone: in IPv6 each fragment may say another one.
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

/// Which octets of its datagram a fragment has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(super) start: u16,
    pub(super) end: u16,
    pub(super) last: bool,
}

impl Part {
    pub(crate) const fn of(p: &Parsed) -> Self {
        Self {
            start: p.fragment_offset,
            // The parser refuses what ends beyond 65,535.
            end: p.fragment_offset.saturating_add(p.l4_len() as u16),
            last: !p.more_fragments,
        }
    }
}

impl DatagramKey {
    /// No datagram's.
    pub(super) const NOBODY: Self = Self {
        src: Ip::UNSPECIFIED,
        dst: Ip::UNSPECIFIED,
        origin: Origin::HOST,
        id: 0,
        proto: 0,
    };
}
