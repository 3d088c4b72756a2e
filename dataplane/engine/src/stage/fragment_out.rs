//! Cuts a packet that is larger than its path's MTU, and may be fragmented, into fragments in frames of the pool (RFC 791 section
//! 3.2).
//!
//! `wire` makes the headers ([`Fragmenter`]). This module gives each fragment its frames and its part of the data. Either all
//! fragments are made or none. The packet must be rewritten before: with a finished checksum and a decremented TTL.

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_port::{FrameStore, HEADROOM, Packet, WorkerPool};
use heddle_wire::{Fragmenter, parse};

use super::data::Data;
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
    let store = Arc::clone(pool.store_arc());
    let done = cut(pool, &store, packet, mtu, out);
    if done.is_err() {
        out.drain(..).for_each(|fragment| pool.free_packet(fragment));
    }
    done
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
        out.push(write(pool, store, fragmenter.headers(), &mut data, len).ok_or(DropReason::PoolEmpty)?);
    }
    Ok(())
}

/// Writes one fragment of `headers` and `len` octets of data, into as many frames as it needs. Returns `None` if the pool is empty.
fn write<'a, I: Iterator<Item = &'a [u8]>>(
    pool: &mut WorkerPool,
    store: &FrameStore,
    headers: &[u8],
    data: &mut Data<'a, I>,
    len: usize,
) -> Option<Packet> {
    let total = headers.len() + len;
    let room = store.room() as usize;
    let mut frame = pool.alloc()?;
    store.set_range(&mut frame, HEADROOM, total.min(room) as u32);
    if let Some((front, rest)) = store.bytes_mut(&mut frame).split_at_mut_checked(headers.len()) {
        front.copy_from_slice(headers);
        data.read(rest);
    }
    let mut packet = Packet::new(store, frame);
    let mut left = total.saturating_sub(room);
    while left > 0 {
        let Some(mut frame) = pool.alloc() else {
            pool.free_packet(packet);
            return None;
        };
        store.set_range(&mut frame, HEADROOM, left.min(room) as u32);
        data.read(store.bytes_mut(&mut frame));
        left = left.saturating_sub(room);
        if let Err(frame) = packet.append(store, frame) {
            pool.free(frame);
            pool.free_packet(packet);
            return None;
        }
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use heddle_port::{SharedPool, WorkerId};
    use heddle_wire::testing::{Packet as Build, assert_valid, ip, mac};

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    fn udp(len: usize) -> Vec<u8> {
        Build::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"))
            .dont_fragment(false)
            .udp(1000, 53, &pattern(len))
    }

    fn split_all(frames: u32, frame: &[u8], mtu: u16) -> (Result<Vec<Vec<u8>>, DropReason>, u32) {
        let shared = SharedPool::heap(frames, 4096);
        let mut pool = WorkerPool::new(WorkerId(0), shared.clone());
        let packet = pool.packet(frame).unwrap();
        let mut made = Fragments::new();
        let done = split(&mut pool, &packet, mtu, &mut made);
        let bytes = made.iter().map(|fragment| fragment.to_vec(pool.store())).collect();
        let used = made.iter().map(|fragment| u32::from(fragment.frames())).sum();
        made.into_iter().chain([packet]).for_each(|p| pool.free_packet(p));
        assert_eq!(shared.store().outstanding(), 0);
        (done.map(|()| bytes), used)
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
