//! A worker's own pool: a small stack of frames that exchanges batches with the shared pool.

use std::sync::Arc;

use heddle_ids::WorkerId;

use crate::frame::{Frame, Holder};
use crate::packet::Packet;
use crate::shared::{BATCH, SharedPool};
use crate::store::FrameStore;

/// The free frames of one worker. Dropping it releases them into the shared pool.
#[derive(Debug)]
pub struct WorkerPool {
    id: WorkerId,
    shared: SharedPool,
    store: Arc<FrameStore>,
    stack: Vec<Frame>,
}

impl WorkerPool {
    /// The most frames in a worker's pool. When there are more, a batch is released into the shared pool.
    pub const CAPACITY: usize = 4 * BATCH;

    /// Makes the empty pool of a worker.
    #[must_use]
    pub fn new(id: WorkerId, shared: SharedPool) -> Self {
        let store = Arc::clone(shared.store());
        Self {
            id,
            shared,
            store,
            stack: Vec::with_capacity(Self::CAPACITY + BATCH),
        }
    }

    /// Returns the worker.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.id
    }

    /// Returns the holder of the frames that this pool allocates.
    #[must_use]
    pub fn holder(&self) -> Holder {
        Holder::Worker(self.id)
    }

    /// Returns the memory of the frames.
    #[must_use]
    pub fn store(&self) -> &FrameStore {
        &self.store
    }

    /// Returns the memory of the frames as an `Arc`. With a clone of it, bytes can be borrowed while the pool is in use.
    #[must_use]
    pub fn store_arc(&self) -> &Arc<FrameStore> {
        &self.store
    }

    /// Returns the shared pool.
    #[must_use]
    pub fn shared(&self) -> &SharedPool {
        &self.shared
    }

    /// Returns the number of frames in the pool.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stack.len()
    }

    /// Returns true if the pool has no frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stack.is_empty()
    }

    /// Allocates a frame, from the shared pool if this one is empty. Its range and bytes are left from its last use.
    #[must_use]
    pub fn alloc(&mut self) -> Option<Frame> {
        if self.stack.is_empty() {
            self.shared.alloc(BATCH as u32, Holder::Pool(self.id), &mut self.stack);
        }
        let frame = self.stack.pop()?;
        self.store.set_holder(&frame, Holder::Worker(self.id));
        Some(frame)
    }

    /// Frees a frame.
    pub fn free(&mut self, frame: Frame) {
        self.store.set_holder(&frame, Holder::Pool(self.id));
        self.stack.push(frame);
        self.spill();
    }

    /// Frees all frames of a packet.
    pub fn free_packet(&mut self, packet: Packet) {
        for frame in packet.into_frames(&self.store) {
            self.store.set_holder(&frame, Holder::Pool(self.id));
            self.stack.push(frame);
        }
        self.spill();
    }

    /// Releases a batch into the shared pool if there are more frames than [`Self::CAPACITY`].
    fn spill(&mut self) {
        if self.stack.len() > Self::CAPACITY {
            self.shared.release(self.stack.drain(Self::CAPACITY - BATCH..));
        }
    }

    /// Allocates a packet with these bytes, in as many frames as it needs. Returns `None` if there are not enough frames or it needs
    /// more than a packet may have.
    #[must_use]
    pub fn packet(&mut self, bytes: &[u8]) -> Option<Packet> {
        let mut head = self.alloc()?;
        let mut done = self.store.fill(&mut head, bytes);
        let mut packet = Packet::new(&self.store, head);
        while done < bytes.len() {
            let Some(mut frame) = self.alloc() else {
                self.free_packet(packet);
                return None;
            };
            done += self.store.fill(&mut frame, &bytes[done..]);
            if let Err(frame) = packet.append(&self.store, frame) {
                self.free(frame);
                self.free_packet(packet);
                return None;
            }
        }
        Some(packet)
    }

    /// Releases all frames into the shared pool.
    pub fn drain(&mut self) {
        self.shared.release(self.stack.drain(..));
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.drain();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_gives_a_batch_away() {
        let shared = SharedPool::heap(400, 512);
        let mut all = Vec::new();
        shared.alloc(400, Holder::Worker(WorkerId(0)), &mut all);
        let mut pool = WorkerPool::new(WorkerId(0), shared.clone());
        for frame in all.drain(..WorkerPool::CAPACITY) {
            pool.free(frame);
        }
        assert_eq!((pool.len(), shared.free()), (256, 0));
        pool.free(all.remove(0));
        assert_eq!((pool.len(), shared.free()), (192, 65));
        all.drain(..).for_each(|frame| pool.free(frame));
        drop(pool);
        assert_eq!((shared.free(), shared.store().outstanding()), (400, 0));
    }

    #[test]
    fn a_packet_that_finds_too_few_frames_costs_none() {
        let shared = SharedPool::heap(3, 512);
        let mut pool = WorkerPool::new(WorkerId(0), shared.clone());
        assert!(pool.packet(&[0; 1000]).is_none());
        let packet = pool.packet(&[7; 600]).unwrap();
        assert_eq!(
            (packet.frames(), packet.len(), shared.store().outstanding()),
            (3, 600, 3)
        );
        pool.free_packet(packet);
        let empty = pool.packet(&[]).unwrap();
        assert_eq!((empty.frames(), empty.is_empty()), (1, true));
        pool.free_packet(empty);
        assert_eq!(shared.store().outstanding(), 0);
    }

    #[test]
    fn a_packet_has_at_most_18_frames() {
        let mut pool = WorkerPool::new(WorkerId(0), SharedPool::heap(30, 512));
        let most = pool.packet(&[0; 18 * 256]).unwrap();
        assert_eq!(most.frames(), Packet::MAX_FRAMES);
        assert!(pool.packet(&[0; 18 * 256 + 1]).is_none());
        pool.free_packet(most);
        assert_eq!(pool.store().outstanding(), 0);
    }
}
