//! Lowers the MSS option of SYN segments to the path's MSS.

use crate::bytes;
use crate::checksum::Delta;
use crate::parse::Parsed;
use crate::tcp::{self, TcpFlags};

/// Lowers the MSS option of a SYN or SYN-ACK to `max`. Returns true if the option was changed.
///
/// A SYN without the option is not changed: its receiver assumes an MSS of 536 or 1220 (RFC 9293 section 3.7.1), which fits every
/// path.
pub fn clamp_mss(frame: &mut [u8], p: &Parsed, max: u16) -> bool {
    if !p.tcp_flags.contains(TcpFlags::SYN) {
        return false;
    }
    let Some((at, old)) = tcp::mss(frame, p) else {
        return false;
    };
    if old <= max {
        return false;
    }
    // At an odd offset the value lies in two words of the sum, so its octets are swapped.
    let delta = if (at - p.l4()).is_multiple_of(2) {
        Delta::word(old, max)
    } else {
        Delta::word(old.swap_bytes(), max.swap_bytes())
    };
    bytes::put16(frame, at, max) && super::apply(frame, p.l4() + 16, delta)
}
