//! The sum of an inner frame.

use crate::checksum::{self, Chain, Sum, pseudo};
use crate::parse::{L3, Parsed};
use crate::proto::Proto;

/// Returns the one's complement sum over an inner frame, from its Ethernet header to the end of the IP packet. `chain` is the
/// packet's frames, head first. Returns `None` if the packet is shorter than its header says.
///
/// The sum of a transport header and its payload follows from a finished checksum: together with the pseudo header it is ffff. So
/// only headers are read (as in Linux, Documentation/networking/checksum-offloads.rst, "LCO"). Packets without such a checksum
/// (fragments, SCTP, UDP without one, other protocols) are read whole. A checksum that is wrong makes the sum wrong too, and then
/// the tunnel's other end drops the packet, as its receiver would.
#[must_use]
pub fn inner_sum<'a>(p: &Parsed, chain: impl IntoIterator<Item = &'a [u8]>) -> Option<Sum> {
    let mut chain = chain.into_iter();
    let head = chain.next()?;
    if let Some(transport) = transport_sum(p, head) {
        return Some(checksum::sum(head.get(..p.l4())?).plus(transport));
    }
    let mut left = p.end();
    let mut sum = Chain::default();
    for slice in std::iter::once(head).chain(chain) {
        let slice = slice.get(..left).unwrap_or(slice);
        sum.push(slice);
        left -= slice.len();
        if left == 0 {
            return Some(sum.sum());
        }
    }
    None
}

/// Returns the sum of the transport header and its payload as its checksum tells it.
fn transport_sum(p: &Parsed, head: &[u8]) -> Option<Sum> {
    if p.is_fragment() {
        return None;
    }
    let len = p.l4_len();
    let pseudo = match (p.l3, p.proto) {
        (_, Proto::TCP) | (L3::V6, Proto::ICMPV6) => pseudo(p.src, p.dst, p.proto, len as u32),
        (L3::V4, Proto::ICMP) => Sum::ZERO,
        (_, Proto::UDP) => {
            let field = |at| crate::bytes::be16(head, p.l4() + at);
            // A checksum of 0 is none, and octets behind the datagram are in no checksum.
            if field(6)? == 0 || usize::from(field(4)?) != len {
                return None;
            }
            pseudo(p.src, p.dst, p.proto, len as u32)
        }
        _ => return None,
    };
    Some(Sum::ZERO.minus_word(pseudo.fold()))
}
