//! Packets that the dataplane sends of its own: answers, written into a caller's buffer, with finished checksums.
//!
//! Each function takes the packet that it answers (`head` and its [`Parsed`](crate::Parsed)), writes a whole frame to `out` and returns
//! its length. What is never answered is refused with [`BuildError::NotAnswerable`]; [`may_answer_with_error`] is the one
//! place with the rules for ICMP errors. Rate limits are the engine's.

mod arp;
mod echo;
mod error;
mod ndp;
mod reset;

pub use arp::{arp_reply, arp_request};
pub use echo::echo_reply;
pub use error::{IcmpError, Unreachable, icmp_error, may_answer_with_error};
pub use ndp::neighbor_advertisement;
pub use reset::tcp_reset;

use thiserror::Error;

use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::checksum;
use crate::ether;
use crate::proto::Proto;
use crate::rewrite;

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BuildError {
    /// The answer does not fit.
    #[error("the answer needs {needed} bytes, the buffer has {room}: give a buffer of a whole frame")]
    NoRoom {
        /// The answer's length.
        needed: usize,
        /// The buffer's.
        room: usize,
    },
    /// The packet is of a kind that is never answered so, or the answering address is of the other family.
    #[error("a packet of this kind is not answered")]
    NotAnswerable,
    /// The answer needs more of the packet than its head frame has.
    #[error("the head frame does not hold what the answer repeats: answer in place")]
    NotInHead,
}

/// TTL and hop limit of what the dataplane sends itself.
const TTL: u8 = 64;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// Addresses of a packet to be written.
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

    /// Writes Ethernet and IP headers and lets `fill` write a message of `len` octets, zeroed before, the checksum of which
    /// stands at `field`.
    fn write(
        &self,
        out: &mut [u8],
        len: usize,
        field: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<usize, BuildError> {
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
            // Identification 0 with DF set is right for what is never fragmented (RFC 6864 section 4.1).
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

/// The first `needed` bytes of the buffer.
fn room(out: &mut [u8], needed: usize) -> Result<&mut [u8], BuildError> {
    let room = out.len();
    out.get_mut(..needed).ok_or(BuildError::NoRoom { needed, room })
}

fn ethernet(frame: &mut [u8], dst: MacAddr, src: MacAddr, ethertype: u16) {
    rewrite::set_macs(frame, dst, src);
    bytes::put16(frame, 12, ethertype);
}

#[cfg(test)]
mod tests;
