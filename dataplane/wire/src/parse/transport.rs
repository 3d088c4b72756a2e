//! The transport headers: ports, flags, message types, and where the payload starts.

use super::{Fragment, L3, ParseError, Parsed};
use crate::bytes;
use crate::icmp::{self, IcmpMessage};
use crate::proto::Proto;
use crate::tcp;

const UDP_HEADER: usize = 8;
const SCTP_HEADER: usize = 12;

/// Reads the transport header that `p` points at; `p` has its final `proto`, `l4_offset` and fragment fields.
#[inline]
pub(super) fn transport(head: &[u8], p: &mut Parsed) -> Result<(), ParseError> {
    if p.fragment == Fragment::Later {
        return later(p);
    }
    let at = p.l4();
    match p.proto {
        Proto::TCP => {
            let t = header::<{ tcp::MIN_HEADER }>(head, p, ParseError::TcpTruncated)?;
            let len = usize::from(t[12] >> 4) * 4;
            if len < tcp::MIN_HEADER {
                return Err(ParseError::TcpHeaderLength);
            }
            if at + len > p.end() {
                return Err(if p.is_fragment() {
                    ParseError::FragmentTiny
                } else {
                    ParseError::TcpHeaderLength
                });
            }
            if at + len > head.len() {
                return Err(ParseError::HeadersSplit);
            }
            ports(p, [t[0], t[1], t[2], t[3]]);
            p.tcp_flags = tcp::TcpFlags(t[13]);
            p.payload_offset = (at + len) as u16;
        }
        Proto::UDP => {
            let u = header::<UDP_HEADER>(head, p, ParseError::UdpTruncated)?;
            let len = usize::from(u16::from_be_bytes([u[4], u[5]]));
            // A first fragment's length is that of the whole datagram.
            if len < UDP_HEADER || (len > p.l4_len() && !p.is_fragment()) {
                return Err(ParseError::UdpLength);
            }
            ports(p, [u[0], u[1], u[2], u[3]]);
            p.payload_offset = (at + UDP_HEADER) as u16;
        }
        Proto::SCTP => {
            let s = header::<SCTP_HEADER>(head, p, ParseError::SctpTruncated)?;
            ports(p, [s[0], s[1], s[2], s[3]]);
            p.payload_offset = (at + SCTP_HEADER) as u16;
        }
        Proto::ICMP | Proto::ICMPV6 => {
            if (p.proto == Proto::ICMP) != (p.l3 == L3::V4) {
                return Err(ParseError::ProtocolFamily);
            }
            let i = header::<{ icmp::HEADER }>(head, p, ParseError::IcmpTruncated)?;
            (p.icmp_type, p.icmp_code) = (i[0], i[1]);
            let message = IcmpMessage::of(p.l3, i[0]);
            (p.sport, p.dport) = icmp::echo_ports(message, u16::from_be_bytes([i[4], i[5]]));
            p.payload_offset = (at + icmp::HEADER) as u16;
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn ports(p: &mut Parsed, b: [u8; 4]) {
    p.sport = u16::from_be_bytes([b[0], b[1]]);
    p.dport = u16::from_be_bytes([b[2], b[3]]);
}

/// The fixed part of the transport header, or why it is not there.
#[inline(always)]
fn header<'a, const N: usize>(head: &'a [u8], p: &Parsed, short: ParseError) -> Result<&'a [u8; N], ParseError> {
    let at = p.l4();
    if at + N > p.end() {
        return Err(if p.is_fragment() {
            ParseError::FragmentTiny
        } else {
            short
        });
    }
    bytes::read::<N>(head, at).ok_or(ParseError::HeadersSplit)
}

#[cold]
fn later(p: &Parsed) -> Result<(), ParseError> {
    // RFC 1858 section 3.2.2 (RFC 3128): a fragment at offset 8 would overwrite the TCP flags behind the policy's back.
    if p.proto == Proto::TCP && usize::from(p.fragment_offset) < tcp::MIN_HEADER {
        return Err(ParseError::FragmentTiny);
    }
    Ok(())
}
