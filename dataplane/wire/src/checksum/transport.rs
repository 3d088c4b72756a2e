//! Transport checksums of parsed packets, which may be chains of frames: is it partial, compute, finish, verify.

use super::{Chain, Crc32c, Sum, pseudo};
use crate::bytes;
use crate::parse::Parsed;
use crate::proto::Proto;

/// Where the checksum field stands in the transport header.
#[inline]
pub(crate) const fn field_offset(proto: Proto) -> Option<usize> {
    match proto {
        Proto::TCP => Some(16),
        Proto::UDP => Some(6),
        Proto::SCTP => Some(8),
        Proto::ICMP | Proto::ICMPV6 => Some(2),
        _ => None,
    }
}

/// The length that checksum and pseudo header cover: for UDP that of its own header, which may leave octets behind it.
#[inline]
fn covered(head: &[u8], p: &Parsed) -> Option<usize> {
    if p.proto == Proto::UDP {
        bytes::be16(head, p.l4() + 4).map(usize::from)
    } else {
        Some(p.l4_len())
    }
}

#[inline]
fn pseudo_of(p: &Parsed, len: usize) -> Sum {
    match p.proto {
        Proto::TCP | Proto::UDP | Proto::ICMPV6 => pseudo(p.src, p.dst, p.proto, len as u32),
        _ => Sum::ZERO,
    }
}

/// Whether the sender left the transport checksum to be finished; to be asked for frames from a veth only.
///
/// A TCP or UDP field that equals the folded, not complemented pseudo-header sum is what Linux leaves under
/// `CHECKSUM_PARTIAL`; an SCTP CRC32c of zero likewise. A fragment is never partial: Linux sums before it fragments.
#[must_use]
#[inline(always)]
pub fn is_partial(head: &[u8], p: &Parsed) -> bool {
    if p.is_fragment() {
        return false;
    }
    match p.proto {
        Proto::TCP => bytes::be16(head, p.l4() + 16) == Some(pseudo_of(p, p.l4_len()).fold()),
        Proto::UDP => match (covered(head, p), bytes::be16(head, p.l4() + 6)) {
            (Some(len), Some(field)) => field == pseudo_of(p, len).fold(),
            _ => false,
        },
        Proto::SCTP => bytes::be32(head, p.l4() + 8) == Some(0),
        _ => false,
    }
}

/// A checksum that was computed and is to be stored in the head frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    at: u16,
    value: Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Sum(u16),
    Crc([u8; 4]),
}

impl Finished {
    /// Writes the field; `false` when the head is not that of the packet it was computed for.
    #[inline]
    pub fn store(self, head: &mut [u8]) -> bool {
        match self.value {
            Value::Sum(v) => bytes::put16(head, usize::from(self.at), v),
            Value::Crc(v) => bytes::put(head, usize::from(self.at), v),
        }
    }
}

/// The right transport checksum of a whole packet, whatever stands in the field now; `chain` is its frames, head first.
///
/// `None` for fragments, protocols without a checksum known here, and a chain that is shorter than the packet.
#[must_use]
#[inline(always)]
pub fn compute<'a>(p: &Parsed, chain: impl IntoIterator<Item = &'a [u8]>) -> Option<Finished> {
    let mut chain = chain.into_iter();
    let head = chain.next()?;
    let at = p.l4() + field_offset(p.proto)?;
    if p.is_fragment() {
        return None;
    }
    let len = covered(head, p)?;
    let value = if p.proto == Proto::SCTP {
        Value::Crc(crc(p, head, chain, len)?)
    } else {
        // Left out, not taken away: in one's complement that would make ffff of a message of zeros.
        let before = super::sum(head.get(p.l4()..at)?);
        let behind = at + 2;
        let total = sum_range(
            pseudo_of(p, len).plus(before),
            head,
            chain,
            behind,
            (p.l4() + len).checked_sub(behind)?,
        )?;
        Value::Sum(match total.checksum() {
            0 if p.proto == Proto::UDP => 0xffff,
            sum => sum,
        })
    };
    Some(Finished { at: at as u16, value })
}

/// Finishes a partial checksum; `rest` is the frames behind the head. `false` when it was not partial, or the chain short.
pub fn finish_partial<'a>(head: &mut [u8], rest: impl IntoIterator<Item = &'a [u8]>, p: &Parsed) -> bool {
    if !is_partial(head, p) {
        return false;
    }
    let done = compute(
        p,
        std::iter::once(&*head).chain(rest.into_iter().map(|r| -> &[u8] { r })),
    );
    done.is_some_and(|f| f.store(head))
}

/// Whether the transport checksum is right; `chain` is the packet's frames, head first.
///
/// True where there is nothing to verify: fragments, other protocols, UDP over IPv4 with a field of 0.
#[must_use]
pub fn verify<'a>(p: &Parsed, chain: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut chain = chain.into_iter();
    let (Some(head), Some(offset)) = (chain.next(), field_offset(p.proto)) else {
        return true;
    };
    if p.is_fragment() {
        return true;
    }
    let Some(len) = covered(head, p) else {
        return false;
    };
    if p.proto == Proto::SCTP {
        return crc(p, head, chain, len).is_some_and(|c| bytes::read::<4>(head, p.l4() + offset) == Some(&c));
    }
    if p.proto == Proto::UDP && bytes::be16(head, p.l4() + offset) == Some(0) {
        // RFC 8200 section 8.1: IPv6 has no UDP without a checksum.
        return p.l3 == crate::parse::L3::V4;
    }
    sum_range(pseudo_of(p, len), head, chain, p.l4(), len).is_some_and(|s| s.fold() == 0xffff)
}

/// Adds `len` octets from `start` of the packet to `sum`.
#[inline(always)]
fn sum_range<'a>(sum: Sum, head: &[u8], rest: impl Iterator<Item = &'a [u8]>, start: usize, len: usize) -> Option<Sum> {
    let mut total = Chain::from(sum);
    each_slice(head, rest, start, len, |slice| total.push(slice))?;
    Some(total.sum())
}

fn crc<'a>(p: &Parsed, head: &[u8], rest: impl Iterator<Item = &'a [u8]>, len: usize) -> Option<[u8; 4]> {
    let mut crc = Crc32c::new();
    crc.push(bytes::read::<8>(head, p.l4())?);
    crc.push(&[0; 4]);
    each_slice(head, rest, p.l4() + 12, len.checked_sub(12)?, |slice| crc.push(slice))?;
    Some(crc.finish())
}

/// Calls `f` with the parts of a chain that make up `len` octets from `start`, which is in the head.
#[inline(always)]
fn each_slice<'a>(
    head: &[u8],
    rest: impl Iterator<Item = &'a [u8]>,
    start: usize,
    len: usize,
    mut f: impl FnMut(&[u8]),
) -> Option<()> {
    let first = head.get(start..)?;
    let first = first.get(..len).unwrap_or(first);
    f(first);
    let mut left = len - first.len();
    for slice in rest {
        if left == 0 {
            break;
        }
        let slice = slice.get(..left).unwrap_or(slice);
        f(slice);
        left -= slice.len();
    }
    (left == 0).then_some(())
}
