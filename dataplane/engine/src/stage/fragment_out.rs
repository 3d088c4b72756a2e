//! Cuts a packet that is larger than its path's MTU, and may be fragmented, into fragments in frames of the pool (RFC 791 section
//! 3.2).
//!
//! `wire` makes the headers ([`Fragmenter`]). This module gives each fragment its frames and its part of the data. Either all
//! fragments are made or none. The packet must be rewritten before: with a finished checksum and a decremented TTL.

use arrayvec::ArrayVec;
use heddle_port::{FrameStore, Packet, WorkerPool};
use heddle_wire::{Fragmenter, parse};

use super::parts::{self, Data};
use crate::reason::DropReason;

/// The most fragments of a packet. Cut for an MTU of 576, which every host accepts (RFC 791), the largest one makes 119.
pub(crate) const MAX_FRAGMENTS: usize = 120;

/// The fragments of a packet, in order.
pub(crate) type Fragments = ArrayVec<Packet, MAX_FRAGMENTS>;

/// Cuts a packet into fragments of at most `mtu` octets, appended to `out`. The packet itself stays as it is.
///
/// # Errors
/// `PoolEmpty` if there are not enough frames; `TooBig` if the packet must not be fragmented or would need more than
/// [`MAX_FRAGMENTS`]. `out` is then empty.
#[cold]
pub(crate) fn split(pool: &mut WorkerPool, packet: &Packet, mtu: u16, out: &mut Fragments) -> Result<(), DropReason> {
    parts::all_or_none(pool, out, |pool, store, out| cut(pool, store, packet, mtu, out))
}

/// Does the work of [`split`]. On an error, `out` contains the fragments made so far.
fn cut(
    pool: &mut WorkerPool,
    store: &FrameStore,
    packet: &Packet,
    mtu: u16,
    out: &mut Fragments,
) -> Result<(), DropReason> {
    let head = packet.bytes(store);
    let p = parse(head, packet.len() as usize).map_err(DropReason::from)?;
    let mut fragmenter = Fragmenter::new(head, &p, mtu).ok_or(DropReason::TooBig)?;
    let mut data = Data::new(packet.chunks(store), p.l4());
    while let Some(len) = fragmenter.advance() {
        if out.is_full() {
            return Err(DropReason::TooBig);
        }
        let headers = fragmenter.headers();
        let made = parts::packet(pool, store, headers.len(), len, |frame| data.read(frame));
        let mut fragment = made.ok_or(DropReason::PoolEmpty)?;
        if let Some(front) = fragment.bytes_mut(store).get_mut(..headers.len()) {
            front.copy_from_slice(headers);
        }
        out.push(fragment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use heddle_wire::testing::{Packet as Build, assert_valid, ip, mac};

    use super::parts::tests::{cut_all, pattern};
    use super::*;

    fn udp(len: usize) -> Vec<u8> {
        Build::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"))
            .dont_fragment(false)
            .udp(1000, 53, &pattern(len))
    }

    fn split_all(frames: u32, frame: &[u8], mtu: u16) -> (Result<Vec<Vec<u8>>, DropReason>, u32) {
        cut_all(frames, frame, |pool, packet, made| split(pool, packet, mtu, made))
    }

    #[test]
    fn a_chain_of_frames_is_cut_across_their_borders() {
        for (len, mtu, count, frames) in [(60_000, 1500, 41, 41), (20_000, 9000, 3, 7), (8000, 8000, 2, 4)] {
            let frame = udp(len);
            let (made, used) = split_all(128, &frame, mtu);
            let made = made.unwrap();
            assert_eq!((made.len(), used), (count, frames), "{len} octets by {mtu}");
            let mut data = Vec::new();
            for fragment in &made {
                assert_valid(fragment);
                data.extend_from_slice(&fragment[34..]);
            }
            assert!(data == frame[34..]);
        }
    }

    #[test]
    fn either_all_fragments_are_made_or_none() {
        let frame = udp(20_000);
        // The packet itself takes six frames, its fragments fourteen.
        assert!(split_all(20, &frame, 1500).0.is_ok());
        for frames in 6..20 {
            assert_eq!(split_all(frames, &frame, 1500), (Err(DropReason::PoolEmpty), 0));
        }
        assert_eq!(split_all(18, &udp(60_000), 100), (Err(DropReason::PoolEmpty), 0));
        assert_eq!(split_all(400, &udp(60_000), 100), (Err(DropReason::TooBig), 0));
    }
}
