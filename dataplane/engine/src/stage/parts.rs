//! Cuts packets into parts: the memory of each part, and its piece of the packet's data. The stages that cut packets write the headers.

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_port::{FrameStore, HEADROOM, Packet, WorkerPool};

use crate::reason::DropReason;

/// Calls `cut`, which appends the parts of a packet to `out`. On an error the parts that it has made are freed, so that either all parts
/// are made or none.
pub(super) fn all_or_none<const N: usize>(
    pool: &mut WorkerPool,
    out: &mut ArrayVec<Packet, N>,
    cut: impl FnOnce(&mut WorkerPool, &FrameStore, &mut ArrayVec<Packet, N>) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let store = Arc::clone(pool.store_arc());
    let done = cut(pool, &store, out);
    if done.is_err() {
        out.drain(..).for_each(|part| pool.free_packet(part));
    }
    done
}

/// Makes a packet with room for `headers` octets, which lie in its first frame, and behind them `len` octets that `fill` writes, frame by
/// frame, into as many frames as they need. Returns `None` if the pool is empty.
pub(super) fn packet(
    pool: &mut WorkerPool,
    store: &FrameStore,
    headers: usize,
    len: usize,
    mut fill: impl FnMut(&mut [u8]),
) -> Option<Packet> {
    let room = store.room() as usize;
    let mut left = headers + len;
    let mut frame = pool.alloc()?;
    store.set_range(&mut frame, HEADROOM, left.min(room) as u32);
    if let Some((_, data)) = store.bytes_mut(&mut frame).split_at_mut_checked(headers) {
        fill(data);
    }
    let mut packet = Packet::new(store, frame);
    left = left.saturating_sub(room);
    while left > 0 {
        let Some(mut frame) = pool.alloc() else {
            pool.free_packet(packet);
            return None;
        };
        store.set_range(&mut frame, HEADROOM, left.min(room) as u32);
        fill(store.bytes_mut(&mut frame));
        left = left.saturating_sub(room);
        if let Err(frame) = packet.append(store, frame) {
            pool.free(frame);
            pool.free_packet(packet);
            return None;
        }
    }
    Some(packet)
}

/// A reader of the data behind a packet's headers, frame by frame.
pub(super) struct Data<'a, I> {
    chunks: I,
    current: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Data<'a, I> {
    /// Makes a reader of the chunks of a packet, with headers of `skip` octets in the first one.
    pub(super) fn new(mut chunks: I, skip: usize) -> Self {
        let current = chunks.next().and_then(|head| head.get(skip..)).unwrap_or_default();
        Self { chunks, current }
    }

    /// Fills `to` with the next octets.
    pub(super) fn read(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            if self.current.is_empty() {
                match self.chunks.next() {
                    Some(chunk) => self.current = chunk,
                    // Not reached: the parser has checked the length in the header against the packet's.
                    None => return to.fill(0),
                }
                continue;
            }
            let n = to.len().min(self.current.len());
            let (now, later) = self.current.split_at(n);
            let (filled, rest) = to.split_at_mut(n);
            filled.copy_from_slice(now);
            (self.current, to) = (later, rest);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use heddle_port::{SharedPool, WorkerId};

    use super::*;

    /// Returns recognizable data.
    pub(in crate::stage) fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    /// Cuts a frame with a pool of so many frames. Returns the parts and the number of their frames. Asserts that no frame is lost.
    pub(in crate::stage) fn cut_all<const N: usize>(
        frames: u32,
        frame: &[u8],
        cut: impl FnOnce(&mut WorkerPool, &Packet, &mut ArrayVec<Packet, N>) -> Result<(), DropReason>,
    ) -> (Result<Vec<Vec<u8>>, DropReason>, u32) {
        let shared = SharedPool::heap(frames, 4096);
        let mut pool = WorkerPool::new(WorkerId(0), shared.clone());
        let packet = pool.packet(frame).unwrap();
        let mut made = ArrayVec::new();
        let done = cut(&mut pool, &packet, &mut made);
        let bytes = made.iter().map(|part| part.to_vec(pool.store())).collect();
        let used = made.iter().map(|part| u32::from(part.frames())).sum();
        made.into_iter().chain([packet]).for_each(|p| pool.free_packet(p));
        assert_eq!(shared.store().outstanding(), 0);
        (done.map(|()| bytes), used)
    }
}
