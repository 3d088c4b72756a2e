//! The TCP reset that answers a segment of no connection (RFC 9293 section 3.10.7.1).

use super::{BuildError, Envelope};
use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::ether;
use crate::parse::{L3, Parsed};
use crate::proto::Proto;
use crate::tcp::{self, MIN_HEADER, TcpFlags};

/// Builds the reset that answers a TCP segment, from the address and port that the segment was sent to.
///
/// A segment with ACK gets `<SEQ=SEG.ACK><CTL=RST>`. A segment without gets `<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>`, where
/// SYN and FIN count in the length.
///
/// # Errors
///
/// `NotAnswerable` for a reset, a fragment (the segment's length is not known), a multicast or unspecified address, and anything
/// but TCP; `NoRoom`.
pub fn tcp_reset(head: &[u8], p: &Parsed, mac: MacAddr, out: &mut [u8]) -> Result<usize, BuildError> {
    let refused = BuildError::NotAnswerable;
    if !p.is_tcp() || p.is_fragment() || p.tcp_flags.contains(TcpFlags::RST) || p.to_multicast() || p.l2_multicast {
        return Err(refused);
    }
    if p.src == Ip::UNSPECIFIED || (p.l3 == L3::V4 && p.src.v4_octets() == [0; 4]) {
        return Err(refused);
    }
    let segment_seq = tcp::sequence(head, p).ok_or(refused)?;
    let segment_ack = tcp::acknowledgment(head, p).ok_or(refused)?;
    let (seq, ack, flags) = if p.tcp_flags.contains(TcpFlags::ACK) {
        (segment_ack, 0, TcpFlags::RST)
    } else {
        let control = [TcpFlags::SYN, TcpFlags::FIN]
            .iter()
            .filter(|f| p.tcp_flags.contains(**f))
            .count();
        let len = (p.payload_len() + control) as u32;
        (0, segment_seq.wrapping_add(len), TcpFlags::RST | TcpFlags::ACK)
    };
    let envelope = Envelope {
        src_mac: mac,
        dst_mac: ether::source(head).ok_or(refused)?,
        src: p.dst,
        dst: p.src,
        proto: Proto::TCP,
        class: 0,
        ttl: super::TTL,
    };
    envelope.write(out, MIN_HEADER, 16, |t| {
        bytes::put16(t, 0, p.dport);
        bytes::put16(t, 2, p.sport);
        bytes::put(t, 4, seq.to_be_bytes());
        bytes::put(t, 8, ack.to_be_bytes());
        bytes::put(t, 12, [(MIN_HEADER as u8 / 4) << 4, flags.0]);
    })
}
