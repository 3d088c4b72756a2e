//! The outer headers of one peer: Ethernet, IP, UDP and VXLAN.

use super::{HAS_VNI, HEADER, MAX_VNI, UDP};
use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::checksum::{self, Sum, pseudo};
use crate::ether;
use crate::proto::Proto;
use crate::rewrite;

const AT: usize = ether::HEADER;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// TTL and hop limit of outer headers.
const TTL: u8 = 64;
const MAX: usize = AT + IPV6 + UDP + HEADER;

/// The bytes before every inner frame to one peer, complete except for lengths, traffic class, source port and checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OuterHeader {
    bytes: [u8; MAX],
    /// The IP header's length: it gives the family.
    ip: u8,
    /// The sum of what does not change: of the IPv4 header, or of the UDP pseudo header, UDP and VXLAN headers over IPv6.
    fixed: u16,
}

impl OuterHeader {
    /// Builds the headers from `src` to `dst` and the UDP port `port`, with the network identifier `vni`. Returns `None` if the
    /// addresses are of different families, or the identifier has more than 24 bits.
    #[must_use]
    pub fn new(src: Ip, dst: Ip, port: u16, vni: u32) -> Option<Self> {
        if src.is_v4() != dst.is_v4() || vni > MAX_VNI {
            return None;
        }
        let mut b = [0; MAX];
        let ip = if src.is_v4() { IPV4 } else { IPV6 };
        let udp = AT + ip;
        if src.is_v4() {
            bytes::put16(&mut b, 12, ether::IPV4);
            // DF: the path's MTU is known, and a fragmented tunnel would hide a smaller one. With DF, the identification may be 0
            // (RFC 6864 section 4.1).
            bytes::put(&mut b, AT, [0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, Proto::UDP.0]);
            bytes::put(&mut b, AT + 12, src.v4_octets());
            bytes::put(&mut b, AT + 16, dst.v4_octets());
        } else {
            bytes::put16(&mut b, 12, ether::IPV6);
            bytes::put(&mut b, AT, [0x60, 0, 0, 0, 0, 0, Proto::UDP.0, TTL]);
            bytes::put(&mut b, AT + 8, src.octets());
            bytes::put(&mut b, AT + 24, dst.octets());
        }
        bytes::put16(&mut b, udp + 2, port);
        let [_, x, y, z] = vni.to_be_bytes();
        bytes::put(&mut b, udp + UDP, [HAS_VNI, 0, 0, 0, x, y, z, 0]);
        let fixed = if src.is_v4() {
            checksum::sum(b.get(AT..udp)?)
        } else {
            pseudo(src, dst, Proto::UDP, 0).plus(checksum::sum(b.get(udp..)?))
        };
        Some(Self {
            bytes: b,
            ip: ip as u8,
            fixed: fixed.fold(),
        })
    }

    /// Sets the Ethernet addresses of the next hop and of the interface that packets leave by.
    #[must_use]
    pub fn with_macs(mut self, dst: MacAddr, src: MacAddr) -> Self {
        rewrite::set_macs(&mut self.bytes, dst, src);
        self
    }

    /// Returns the length of the headers in octets, the Ethernet header included.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        AT + self.ip as usize + UDP + HEADER
    }

    /// Returns false: there are always headers.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Returns true if [`write`](Self::write) needs the sum of the inner frame: over IPv6, where UDP must have a checksum
    /// (RFC 8200 section 8.1; Linux refuses tunnels without one unless configured).
    #[must_use]
    #[inline]
    pub const fn needs_inner_sum(&self) -> bool {
        self.ip as usize == IPV6
    }

    /// Writes the headers to the start of `head`, before an inner frame of `inner_len` octets. `class` is the inner frame's
    /// traffic class, `source_port` the UDP source port, and `inner` the sum of the inner frame if it is needed. Returns false if
    /// `head` is too short or the datagram too long.
    ///
    /// The outer header has the inner packet's DSCP and ECN (RFC 2983 section 3.1, RFC 6040 section 4.1, normal mode).
    #[must_use]
    #[inline]
    pub fn write(&self, head: &mut [u8], inner_len: u32, class: u8, source_port: u16, inner: Sum) -> bool {
        let udp_len = UDP + HEADER + inner_len as usize;
        let Ok(total) = u16::try_from(udp_len + if self.needs_inner_sum() { 0 } else { IPV4 }) else {
            return false;
        };
        if self.needs_inner_sum() {
            self.write_v6(head, total, class, source_port, inner)
        } else {
            self.write_v4(head, total, class, source_port)
        }
    }

    #[inline]
    fn write_v4(&self, head: &mut [u8], total: u16, class: u8, source_port: u16) -> bool {
        const LEN: usize = AT + IPV4 + UDP + HEADER;
        let (Some(out), Some(header)) = (head.first_chunk_mut::<LEN>(), self.bytes.first_chunk::<LEN>()) else {
            return false;
        };
        *out = *header;
        out[AT + 1] = class;
        let sum = Sum::ZERO
            .plus_word(self.fixed)
            .plus_word(u16::from(class))
            .plus_word(total)
            .checksum();
        bytes::put16(out, AT + 2, total)
            && bytes::put16(out, AT + 10, sum)
            && bytes::put16(out, AT + IPV4, source_port)
            // The checksum stays 0: none (RFC 7348 section 5).
            && bytes::put16(out, AT + IPV4 + 4, total - IPV4 as u16)
    }

    #[inline]
    fn write_v6(&self, head: &mut [u8], udp_len: u16, class: u8, source_port: u16, inner: Sum) -> bool {
        let (Some(out), header) = (head.first_chunk_mut::<MAX>(), &self.bytes) else {
            return false;
        };
        *out = *header;
        // The length is in the pseudo header and in the UDP header.
        let sum = Sum::ZERO
            .plus_word(self.fixed)
            .plus_word(source_port)
            .plus_word(udp_len)
            .plus_word(udp_len)
            .plus(inner)
            .checksum();
        bytes::put16(out, AT, 0x6000 | u16::from(class) << 4)
            && bytes::put16(out, AT + 4, udp_len)
            && bytes::put16(out, AT + IPV6, source_port)
            && bytes::put16(out, AT + IPV6 + 4, udp_len)
            // A computed 0 is sent as ffff (RFC 768).
            && bytes::put16(out, AT + IPV6 + 6, if sum == 0 { 0xffff } else { sum })
    }
}
