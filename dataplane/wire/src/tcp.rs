//! Fields of the TCP header that only some stages read (RFC 9293 section 3.1).

use crate::bytes;
use crate::parse::Parsed;
pub use crate::tcp_flags::TcpFlags;

/// The length of a TCP header without options.
pub const MIN_HEADER: usize = 20;

/// Returns the sequence number of a parsed TCP segment.
#[must_use]
#[inline]
pub fn sequence(head: &[u8], p: &Parsed) -> Option<u32> {
    if p.is_tcp() {
        bytes::be32(head, p.l4() + 4)
    } else {
        None
    }
}

/// Returns the acknowledgment number of a parsed TCP segment.
#[must_use]
#[inline]
pub fn acknowledgment(head: &[u8], p: &Parsed) -> Option<u32> {
    if p.is_tcp() {
        bytes::be32(head, p.l4() + 8)
    } else {
        None
    }
}

/// Returns the offset of the MSS option's value in the frame, and the value (RFC 9293 section 3.7.1).
///
/// A malformed option list ends the search.
#[must_use]
pub fn mss(head: &[u8], p: &Parsed) -> Option<(usize, u16)> {
    if !p.is_tcp() {
        return None;
    }
    let end = p.payload();
    let mut at = p.l4() + MIN_HEADER;
    while at < end {
        match *head.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*head.get(at + 1)?);
                if len < 2 || at + len > end {
                    return None;
                }
                if kind == 2 && len == 4 {
                    return bytes::be16(head, at + 2).map(|v| (at + 2, v));
                }
                at += len;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_syn_opens() {
        assert!(TcpFlags::SYN.opens());
        assert!((TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR).opens());
        for other in [TcpFlags::ACK, TcpFlags::RST, TcpFlags::FIN] {
            assert!(!(TcpFlags::SYN | other).opens());
        }
    }

    #[test]
    fn impossible_combinations_are_those_without_a_meaning() {
        let (f, s, r, a) = (TcpFlags::FIN, TcpFlags::SYN, TcpFlags::RST, TcpFlags::ACK);
        for ok in [s, s | a, a, f | a, r, r | a, a | TcpFlags::PSH | TcpFlags::URG] {
            assert!(!ok.is_impossible(), "{ok}");
        }
        for bad in [
            TcpFlags::NONE,
            f,
            s | f,
            s | r,
            f | r,
            s | f | a,
            s | r | a,
            f | r | a,
            s | f | r,
            TcpFlags::PSH,
        ] {
            assert!(bad.is_impossible(), "{bad}");
        }
    }

    #[test]
    fn flags_print_by_name() {
        assert_eq!((TcpFlags::SYN | TcpFlags::ACK).to_string(), "SYN,ACK");
        assert_eq!(TcpFlags::NONE.to_string(), "none");
    }
}
