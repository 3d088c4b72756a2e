//! The inner packet in the quote of an ICMP error. A router between two nodes quotes the packet that it got: the outer one.

use super::{HAS_VNI, HEADER, UDP};
use crate::addr::Ip;
use crate::bytes;
use crate::ether;
use crate::icmp::{v4, v6};
use crate::parse::{Inner, L3, ParseError, Parsed};

/// The inner packet of a quoted packet of the tunnel, as far as it is quoted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotedInner {
    /// The sender of the inner packet.
    pub src: Ip,
    /// The destination of the inner packet.
    pub dst: Ip,
    /// The offset of its network header in the frame with the error.
    at: usize,
    /// The offset of the quote's end.
    end: usize,
}

impl QuotedInner {
    /// Returns the quoted part of the inner packet; `head` is the frame with the error.
    pub(crate) fn bytes<'a>(&self, head: &'a [u8]) -> Option<&'a [u8]> {
        head.get(self.at..self.end)
    }
}

/// Finds the inner packet in the quote `outer` of the ICMP error `p`, which is a packet of the tunnel with the identifier `vni`.
/// `head` is the error's first frame.
///
/// # Errors
/// `QuoteTruncated` if the quote ends before the inner addresses do: some routers quote no more than eight octets behind the IP
/// header (RFC 792). `QuoteMalformed` if it is no packet of this tunnel, or the inner packet is no IP.
pub fn quoted_inner(head: &[u8], p: &Parsed, outer: &Inner, vni: u32) -> Result<QuotedInner, ParseError> {
    let end = quote_end(head, p);
    let head = head.get(..end).ok_or(ParseError::QuoteTruncated)?;
    let at = usize::from(outer.l4_offset) + UDP;
    let header = bytes::read::<HEADER>(head, at).ok_or(ParseError::QuoteTruncated)?;
    let [_, a, b, c] = vni.to_be_bytes();
    if *header != [HAS_VNI, 0, 0, 0, a, b, c, 0] {
        return Err(ParseError::QuoteMalformed);
    }
    let l3 = at + HEADER + ether::HEADER;
    let (src, dst) = match bytes::be16(head, l3 - 2).ok_or(ParseError::QuoteTruncated)? {
        ether::IPV4 => {
            let ip = bytes::read::<20>(head, l3).ok_or(ParseError::QuoteTruncated)?;
            if ip[0] >> 4 != 4 {
                return Err(ParseError::QuoteMalformed);
            }
            let address = |at| bytes::read::<4>(ip, at).map(|octets| Ip::from_v4(*octets));
            (address(12), address(16))
        }
        ether::IPV6 => {
            let ip = bytes::read::<40>(head, l3).ok_or(ParseError::QuoteTruncated)?;
            if ip[0] >> 4 != 6 {
                return Err(ParseError::QuoteMalformed);
            }
            // No packet has an IPv4-mapped address (RFC 4291 section 2.5.5.2).
            let address = |at| {
                let ip = Ip::from_v6(*bytes::read::<16>(ip, at)?);
                (!ip.is_v4()).then_some(ip)
            };
            (address(8), address(24))
        }
        _ => return Err(ParseError::QuoteMalformed),
    };
    let (Some(src), Some(dst)) = (src, dst) else {
        return Err(ParseError::QuoteMalformed);
    };
    Ok(QuotedInner { src, dst, at: l3, end })
}

/// Returns the offset of the end of an error's quote: where the packet ends, or before the extensions of RFC 4884 (section 4).
fn quote_end(head: &[u8], p: &Parsed) -> usize {
    let end = p.end().min(head.len());
    let octet = |at| head.get(p.l4() + at).map_or(0, |&length| usize::from(length));
    let length = match (p.l3, p.icmp_type) {
        (L3::V6, v6::UNREACHABLE | v6::TIME_EXCEEDED) => octet(4) * 8,
        (L3::V4, v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM) => octet(5) * 4,
        _ => 0,
    };
    if length == 0 {
        end
    } else {
        end.min(p.payload() + length)
    }
}
