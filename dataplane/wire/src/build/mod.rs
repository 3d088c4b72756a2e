//! Builds heddle's local replies into a caller's buffer, with finished checksums.
//!
//! Each function takes the packet that it answers (`head` and its [`Parsed`](crate::Parsed)), writes a whole frame to `out` and
//! returns its length. A packet that must not be answered is refused with [`BuildError::NotAnswerable`]. The rules for ICMP
//! errors are in [`may_answer_with_error`]. The engine limits the rate of errors.

mod arp;
mod echo;
mod error;
mod ndp;
mod reset;

pub use arp::{arp_reply, arp_request};
pub use echo::echo_reply;
pub use error::{IcmpError, Unreachable, icmp_error, icmp_error_inside, may_answer_with_error};
pub use ndp::neighbor_advertisement;
pub use reset::tcp_reset;

use thiserror::Error;

use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::checksum;
use crate::ether;
use crate::proto::Proto;
use crate::rewrite;

/// The reason for which no reply was built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BuildError {
    /// The reply does not fit the buffer.
    #[error("the answer needs {needed} bytes, the buffer has {room}: give a buffer of a whole frame")]
    NoRoom {
        /// The reply's length in octets.
        needed: usize,
        /// The buffer's length in octets.
        room: usize,
    },
    /// The packet must not be answered in this way, or the reply's address is of the other family.
    #[error("a packet of this kind is not answered")]
    NotAnswerable,
    /// The reply repeats more of the packet than its head frame contains.
    #[error("the head frame does not contain all of the data that the reply repeats: reply in place")]
    NotInHead,
}

/// TTL and hop limit of local replies.
const TTL: u8 = 64;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// The addresses and other header fields of a packet to be written.
#[derive(Clone, Copy)]
struct Envelope {
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: Ip,
    dst: Ip,
    proto: Proto,
    /// TOS or traffic class.
    class: u8,
    ttl: u8,
}

impl Envelope {
    const fn l4(&self, v4: bool) -> usize {
        ether::HEADER + if v4 { IPV4_HEADER } else { IPV6_HEADER }
    }

    /// Writes a frame: the Ethernet and IP headers, and a message of `len` octets, which `fill` gets as zeros. The message's
    /// checksum is written at its offset `field`. Returns the frame's length.
    fn write(
        &self,
        out: &mut [u8],
        len: usize,
        field: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<usize, BuildError> {
        // Room for the whole frame, all zeros.
        let v4 = self.src.is_v4();
        if self.dst.is_v4() != v4 {
            return Err(BuildError::NotAnswerable);
        }
        let l4 = self.l4(v4);
        let total = l4 + len;
        let frame = room(out, total)?;
        frame.fill(0);
        ethernet(
            frame,
            self.dst_mac,
            self.src_mac,
            if v4 { ether::IPV4 } else { ether::IPV6 },
        );
        let at = ether::HEADER;
        if v4 {
            // With DF set, the identification may be 0 (RFC 6864 section 4.1).
            let [a, b] = ((IPV4_HEADER + len) as u16).to_be_bytes();
            bytes::put(
                frame,
                at,
                [0x45, self.class, a, b, 0, 0, 0x40, 0, self.ttl, self.proto.0],
            );
            bytes::put(frame, at + 12, self.src.v4_octets());
            bytes::put(frame, at + 16, self.dst.v4_octets());
            rewrite::finish_ipv4_header(frame, at);
        } else {
            let [a, b] = (len as u16).to_be_bytes();
            bytes::put(
                frame,
                at,
                [
                    0x60 | self.class >> 4,
                    self.class << 4,
                    0,
                    0,
                    a,
                    b,
                    self.proto.0,
                    self.ttl,
                ],
            );
            bytes::put(frame, at + 8, self.src.octets());
            bytes::put(frame, at + 24, self.dst.octets());
        }
        // The message, then its checksum over the pseudo header and itself.
        let Some(message) = frame.get_mut(l4..) else {
            return Err(BuildError::NotAnswerable);
        };
        fill(message);
        let base = match self.proto {
            Proto::ICMP => checksum::Sum::ZERO,
            proto => checksum::pseudo(self.src, self.dst, proto, len as u32),
        };
        let sum = base.plus(checksum::sum(message)).checksum();
        bytes::put16(message, field, sum);
        Ok(total)
    }
}

/// Returns the first `needed` bytes of the buffer.
fn room(out: &mut [u8], needed: usize) -> Result<&mut [u8], BuildError> {
    let room = out.len();
    out.get_mut(..needed).ok_or(BuildError::NoRoom { needed, room })
}

/// Writes the Ethernet header.
fn ethernet(frame: &mut [u8], dst: MacAddr, src: MacAddr, ethertype: u16) {
    rewrite::set_macs(frame, dst, src);
    bytes::put16(frame, 12, ethertype);
}

#[cfg(test)]
mod tests;
