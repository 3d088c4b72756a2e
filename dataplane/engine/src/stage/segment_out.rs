//! Cuts a TCP packet that is larger than its path takes into segments in frames of the pool. The sender's kernel left this to the device
//! (TSO), so the packet is no error.
//!
//! `wire` makes the headers ([`Segmenter`]). This module gives each segment its frames and its part of the data, and sums the data while
//! it is in the cache. Either all segments are made or none. The packet must be rewritten before, with a decremented TTL; its checksum
//! does not matter, because each segment gets its own.

use arrayvec::ArrayVec;
use heddle_port::{FrameStore, Packet, WorkerPool};
use heddle_wire::checksum::Chain;
use heddle_wire::{Segmenter, parse};

use super::parts::{self, Data};
use crate::reason::DropReason;

/// The most segments of a packet: one of 65,535 octets has 123 of the default MSS, the least that receivers and routers may ask for.
pub(crate) const MAX_SEGMENTS: usize = 124;

/// The segments of a packet, in order.
pub(crate) type Segments = ArrayVec<Packet, MAX_SEGMENTS>;

/// Cuts a packet into segments with at most `size` octets of data, appended to `out`. The packet itself stays as it is.
///
/// # Errors
/// `PoolEmpty` if there are not enough frames; `TooBig` if the packet is not divisible or would need more than [`MAX_SEGMENTS`]. `out` is
/// then empty.
#[cold]
pub(crate) fn segment(pool: &mut WorkerPool, packet: &Packet, size: u16, out: &mut Segments) -> Result<(), DropReason> {
    parts::all_or_none(pool, out, |pool, store, out| cut(pool, store, packet, size, out))
}

/// Does the work of [`segment`]. On an error, `out` contains the segments made so far.
fn cut(
    pool: &mut WorkerPool,
    store: &FrameStore,
    packet: &Packet,
    size: u16,
    out: &mut Segments,
) -> Result<(), DropReason> {
    let head = packet.bytes(store);
    let p = parse(head, packet.len() as usize).map_err(DropReason::from)?;
    let mut segmenter = Segmenter::new(head, &p, size).ok_or(DropReason::TooBig)?;
    let mut data = Data::new(packet.chunks(store), p.payload());
    while let Some(len) = segmenter.advance() {
        if out.is_full() {
            return Err(DropReason::TooBig);
        }
        let mut sum = Chain::default();
        let made = parts::packet(pool, store, segmenter.headers_len(), len, |frame| {
            data.read(frame);
            sum.push(frame);
        });
        let mut segment = made.ok_or(DropReason::PoolEmpty)?;
        // There is room: a frame is longer than the longest headers.
        let written = segmenter.write(segment.bytes_mut(store), sum.sum(), len);
        debug_assert!(written, "the headers fit");
        out.push(segment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use heddle_wire::TcpFlags;
    use heddle_wire::testing::{Packet as Build, assert_valid, ip, mac};

    use super::parts::tests::{cut_all, pattern};
    use super::*;

    fn tcp(len: usize) -> Vec<u8> {
        Build::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"))
            .partial()
            .tcp(1000, 80, TcpFlags::ACK | TcpFlags::PSH, 7, 9, &pattern(len))
    }

    fn segment_all(frames: u32, frame: &[u8], size: u16) -> (Result<Vec<Vec<u8>>, DropReason>, u32) {
        cut_all(frames, frame, |pool, packet, made| segment(pool, packet, size, made))
    }

    #[test]
    fn a_chain_of_frames_is_cut_across_their_borders() {
        for (len, size, count, frames) in [(60_000, 1460, 42, 42), (20_000, 8961, 3, 7), (5000, 4999, 2, 3)] {
            let frame = tcp(len);
            let (made, used) = segment_all(128, &frame, size);
            let made = made.unwrap();
            assert_eq!((made.len(), used), (count, frames), "{len} octets by {size}");
            let mut data = Vec::new();
            for segment in &made {
                assert_valid(segment);
                data.extend_from_slice(&segment[54..]);
            }
            assert!(data == frame[54..]);
        }
    }

    #[test]
    fn either_all_segments_are_made_or_none() {
        let frame = tcp(20_000);
        // The packet itself takes six frames, its segments fourteen.
        assert!(segment_all(20, &frame, 1460).0.is_ok());
        for frames in 6..20 {
            assert_eq!(segment_all(frames, &frame, 1460), (Err(DropReason::PoolEmpty), 0));
        }
        assert_eq!(segment_all(400, &tcp(60_000), 100), (Err(DropReason::TooBig), 0));
    }
}
