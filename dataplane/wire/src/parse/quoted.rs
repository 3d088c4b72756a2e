//! The packet that an ICMP error quotes, as far as it is needed to find its flow and to translate it.

use super::error::ParseError;
use super::fragment::Fragmented;
use super::ipv4;
use super::ipv6;
use super::ipv6::Walk;
use super::parsed::{Fragment, L3, Parsed};
use crate::addr::Ip;
use crate::bytes;
use crate::icmp::{self, IcmpMessage};
use crate::proto::Proto;

/// The packet quoted in an ICMP error, as it was sent. The error goes to `src`.
///
/// Offsets count from the first byte of the frame with the error. Ports have the same meaning as in [`Parsed`]: a later fragment
/// and a protocol without ports have 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// Source address of the quoted packet.
    pub src: Ip,
    /// Destination address of the quoted packet.
    pub dst: Ip,
    /// Its source port, or the identifier of its echo request.
    pub sport: u16,
    /// Its destination port, or the identifier of its echo reply.
    pub dport: u16,
    /// The offset of its network header.
    pub l3_offset: u16,
    /// The offset of its transport header.
    pub l4_offset: u16,
    /// Its network protocol.
    pub l3: L3,
    /// Its transport protocol.
    pub proto: Proto,
    /// The part of a datagram that it carries.
    pub fragment: Fragment,
    /// The type of a quoted ICMP message.
    pub icmp_type: u8,
}

impl Inner {
    /// Returns true if the quoted packet is an ICMP echo request.
    #[must_use]
    pub fn is_echo_request(&self) -> bool {
        (self.proto == Proto::ICMP || self.proto == Proto::ICMPV6)
            && self.fragment != Fragment::Later
            && IcmpMessage::of(self.l3, self.icmp_type) == IcmpMessage::EchoRequest
    }
}

/// Reads the packet quoted in an ICMP error (RFC 792, RFC 4443 section 3).
///
/// # Errors
///
/// `QuoteTruncated`, `QuoteMalformed` or `QuoteOfError`. The last is also the error if `p` is no ICMP error.
pub fn quoted(head: &[u8], p: &Parsed) -> Result<Inner, ParseError> {
    if p.icmp() != Some(IcmpMessage::Error) || p.is_fragment() {
        return Err(ParseError::QuoteOfError);
    }
    let at = p.payload();
    let head = head.get(..p.end()).unwrap_or(head);
    // Quotes are shorter than a frame (RFC 1812, RFC 4443), so a quote that ends with the head frame was cut by its sender.
    let mut inner = match p.l3 {
        L3::V4 => v4(head, at)?,
        _ => v6(head, at)?,
    };
    let l4 = usize::from(inner.l4_offset);
    if l4 > head.len() {
        return Err(ParseError::QuoteTruncated);
    }
    if inner.fragment == Fragment::Later {
        return Ok(inner);
    }
    // The ports, or the identifier of an echo message.
    match inner.proto {
        Proto::TCP | Proto::UDP | Proto::SCTP => {
            // A quote has at least the first eight octets of the transport header (RFC 792).
            let t = bytes::read::<8>(head, l4).ok_or(ParseError::QuoteTruncated)?;
            inner.sport = u16::from_be_bytes([t[0], t[1]]);
            inner.dport = u16::from_be_bytes([t[2], t[3]]);
        }
        Proto::ICMP | Proto::ICMPV6 => {
            if (inner.proto == Proto::ICMP) != (inner.l3 == L3::V4) {
                return Err(ParseError::QuoteMalformed);
            }
            let i = bytes::read::<{ icmp::HEADER }>(head, l4).ok_or(ParseError::QuoteTruncated)?;
            let message = IcmpMessage::of(inner.l3, i[0]);
            if message == IcmpMessage::Error {
                return Err(ParseError::QuoteOfError);
            }
            inner.icmp_type = i[0];
            (inner.sport, inner.dport) = icmp::echo_ports(message, u16::from_be_bytes([i[4], i[5]]));
        }
        _ => {}
    }
    Ok(inner)
}

/// Reads a quoted IPv4 header. Its checksum is not verified, because routers may change the quote.
fn v4(head: &[u8], at: usize) -> Result<Inner, ParseError> {
    let ip = bytes::read::<{ ipv4::HEADER }>(head, at).ok_or(ParseError::QuoteTruncated)?;
    let header = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header < ipv4::HEADER {
        return Err(ParseError::QuoteMalformed);
    }
    let word = u16::from_be_bytes([ip[6], ip[7]]);
    Ok(Inner {
        src: Ip::from_v4([ip[12], ip[13], ip[14], ip[15]]),
        dst: Ip::from_v4([ip[16], ip[17], ip[18], ip[19]]),
        sport: 0,
        dport: 0,
        l3_offset: at as u16,
        l4_offset: (at + header) as u16,
        l3: L3::V4,
        proto: Proto(ip[9]),
        fragment: match word & 0x3fff {
            0 => Fragment::Whole,
            0x2000 => Fragment::First,
            _ => Fragment::Later,
        },
        icmp_type: 0,
    })
}

/// Reads a quoted IPv6 header and its extension headers.
fn v6(head: &[u8], at: usize) -> Result<Inner, ParseError> {
    let ip = bytes::read::<{ ipv6::HEADER }>(head, at).ok_or(ParseError::QuoteTruncated)?;
    if ip[0] >> 4 != 6 {
        return Err(ParseError::QuoteMalformed);
    }
    let (src, dst) = ipv6::addresses(ip).map_err(|_| ParseError::QuoteMalformed)?;
    let mut walk = Walk {
        proto: Proto(ip[6]),
        l4: at + ipv6::HEADER,
        fragment: Fragmented::WHOLE,
    };
    if ipv6::is_extension(ip[6]) {
        // The walk ends with the quote, so the quoted length field is not used.
        walk = ipv6::extensions(head, walk, head.len(), false).map_err(|e| match e {
            ParseError::Ipv6ExtensionTruncated | ParseError::HeadersSplit => ParseError::QuoteTruncated,
            _ => ParseError::QuoteMalformed,
        })?;
    }
    Ok(Inner {
        src,
        dst,
        sport: 0,
        dport: 0,
        l3_offset: at as u16,
        l4_offset: walk.l4 as u16,
        l3: L3::V6,
        proto: walk.proto,
        fragment: walk.fragment.kind,
        icmp_type: 0,
    })
}
