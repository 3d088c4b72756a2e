//! The transport headers: ports, flags, message types, and the offset of the payload.

use super::error::ParseError;
use super::fragment::Fragmented;
use super::parsed::{Fragment, L3};
use crate::bytes;
use crate::icmp::{self, IcmpMessage};
use crate::proto::Proto;
use crate::tcp::{self, TcpFlags};

const UDP_HEADER: usize = 8;
const SCTP_HEADER: usize = 12;
/// The chunk type that opens an association (RFC 9260 section 3.3.2).
const SCTP_INIT: u8 = 1;

/// The position of a transport header, from the network header.
pub(super) struct At {
    pub(super) l3: L3,
    pub(super) proto: Proto,
    pub(super) l4: usize,
    pub(super) end: usize,
    pub(super) fragment: Fragmented,
}

/// The fields of a transport header.
pub(super) struct Transport {
    pub(super) sport: u16,
    pub(super) dport: u16,
    pub(super) payload: u16,
    pub(super) flags: TcpFlags,
    pub(super) opens: bool,
    pub(super) icmp_type: u8,
    pub(super) icmp_code: u8,
    pub(super) echo_reply: bool,
}

/// Reads the transport header.
///
/// Each protocol's header must be whole in the packet and in the head frame. A first fragment without a whole header is refused,
/// because policy could not judge it (RFC 1858).
#[inline(always)]
pub(super) fn transport(head: &[u8], at: &At) -> Result<Transport, ParseError> {
    let whole = at.fragment.kind == Fragment::Whole;
    if at.fragment.kind == Fragment::Later {
        return later(at);
    }
    let mut out = Transport {
        sport: 0,
        dport: 0,
        payload: at.l4 as u16,
        flags: TcpFlags::NONE,
        opens: false,
        icmp_type: 0,
        icmp_code: 0,
        echo_reply: false,
    };
    match at.proto {
        Proto::TCP => {
            let t = header::<{ tcp::MIN_HEADER }>(head, at, ParseError::TcpTruncated)?;
            let len = usize::from(t[12] >> 4) * 4;
            if len < tcp::MIN_HEADER {
                return Err(ParseError::TcpHeaderLength);
            }
            if at.l4 + len > at.end {
                return Err(if whole {
                    ParseError::TcpHeaderLength
                } else {
                    ParseError::FragmentTiny
                });
            }
            if at.l4 + len > head.len() {
                return Err(ParseError::HeadersSplit);
            }
            out.ports([t[0], t[1], t[2], t[3]]);
            out.flags = TcpFlags(t[13]);
            out.opens = out.flags.opens();
            out.payload = (at.l4 + len) as u16;
        }
        Proto::UDP => {
            let u = header::<UDP_HEADER>(head, at, ParseError::UdpTruncated)?;
            let len = usize::from(u16::from_be_bytes([u[4], u[5]]));
            // The length in a first fragment is the whole datagram's.
            if len < UDP_HEADER || (at.l4 + len > at.end && whole) {
                return Err(ParseError::UdpLength);
            }
            out.ports([u[0], u[1], u[2], u[3]]);
            out.payload = (at.l4 + UDP_HEADER) as u16;
        }
        Proto::SCTP => {
            let s = header::<SCTP_HEADER>(head, at, ParseError::SctpTruncated)?;
            out.ports([s[0], s[1], s[2], s[3]]);
            out.payload = (at.l4 + SCTP_HEADER) as u16;
            // An INIT is alone in its packet and has no verification tag (RFC 9260 sections 6.10 and 8.5.1).
            if at.l4 + SCTP_HEADER < at.end {
                let chunk = head.get(at.l4 + SCTP_HEADER).ok_or(ParseError::HeadersSplit)?;
                out.opens = *chunk == SCTP_INIT;
            }
        }
        Proto::ICMP | Proto::ICMPV6 => {
            if (at.proto == Proto::ICMP) != (at.l3 == L3::V4) {
                return Err(ParseError::ProtocolFamily);
            }
            let i = header::<{ icmp::HEADER }>(head, at, ParseError::IcmpTruncated)?;
            (out.icmp_type, out.icmp_code) = (i[0], i[1]);
            let message = IcmpMessage::of(at.l3, i[0]);
            out.echo_reply = message == IcmpMessage::EchoReply;
            (out.sport, out.dport) = icmp::echo_ports(message, u16::from_be_bytes([i[4], i[5]]));
            out.payload = (at.l4 + icmp::HEADER) as u16;
        }
        _ => {}
    }
    Ok(out)
}

impl Transport {
    #[inline(always)]
    fn ports(&mut self, b: [u8; 4]) {
        self.sport = u16::from_be_bytes([b[0], b[1]]);
        self.dport = u16::from_be_bytes([b[2], b[3]]);
    }
}

/// Returns the fixed part of the transport header. `short` is the error if a whole packet ends before it.
#[inline(always)]
fn header<'a, const N: usize>(head: &'a [u8], at: &At, short: ParseError) -> Result<&'a [u8; N], ParseError> {
    if at.l4 + N > at.end {
        return Err(if at.fragment.kind == Fragment::Whole {
            short
        } else {
            ParseError::FragmentTiny
        });
    }
    bytes::read::<N>(head, at.l4).ok_or(ParseError::HeadersSplit)
}

/// Returns the fields of a later fragment, which has no transport header.
#[cold]
fn later(at: &At) -> Result<Transport, ParseError> {
    // RFC 1858 section 3.2.2 (RFC 3128): a fragment at offset 8 would overwrite the TCP flags after policy has judged them.
    if at.proto == Proto::TCP && usize::from(at.fragment.offset) < tcp::MIN_HEADER {
        return Err(ParseError::FragmentTiny);
    }
    Ok(Transport {
        sport: 0,
        dport: 0,
        payload: at.l4 as u16,
        flags: TcpFlags::NONE,
        opens: false,
        icmp_type: 0,
        icmp_code: 0,
        echo_reply: false,
    })
}
