//! The memory of the frames and their side arrays: range, next frame of the chain, holder.
//!
//! # Safety of the bytes
//!
//! A [`Frame`] is unique for its index (see there), and [`FrameStore::bytes_mut`] borrows it mutably. So a mutable reference to
//! its bytes is the only one. A handle moves between threads through a pool, a queue or a channel. All of them order the writes
//! before the move (release) and the reads after it (acquire). The kernel writes only into frames that were lent to a port, and
//! those have no handle until they are taken back.
//!
//! The side arrays are atomics with relaxed accesses, which cost as much as plain ones. Only the owner of the handle writes
//! them. Other threads read them only for counting.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32 as StdAtomicU32;
use std::sync::{Arc, Mutex, PoisonError};

use heddle_ids::PortId;

use crate::frame::{AreaId, Frame, Holder};
use crate::sync::{AtomicU32, Ordering};

/// The link that stands for no further frame.
pub(crate) const NIL: u32 = u32::MAX;

/// Bytes before a received packet (the kernel's XDP_PACKET_HEADROOM): room for an outer header.
pub const HEADROOM: u32 = 256;

/// The state of one frame, in 16 bytes. A cache line holds the state of four frames.
struct Side {
    /// The offset of the first byte in the frame (upper half) and the number of bytes (lower half).
    range: AtomicU32,
    /// The next frame of a packet's chain, or of a batch in the shared pool.
    next: AtomicU32,
    /// In a chain's head the last frame, in a batch's head the next batch.
    link: AtomicU32,
    /// [`Holder`], encoded.
    holder: AtomicU32,
}

/// The frames of one memory area.
pub struct FrameStore {
    id: u32,
    area: AreaId,
    base: NonNull<u8>,
    frame_size: u32,
    side: Box<[Side]>,
    /// The open ports. Frames that they hold are not outstanding.
    open: Mutex<BTreeSet<PortId>>,
    /// Keeps the memory at `base` alive.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: `base` points to memory that `_owner` keeps alive for as long as the store lives, and that is only accessed
// through unique `Frame` handles (module documentation). All other fields are Send + Sync.
unsafe impl Send for FrameStore {}
// SAFETY: as above; a shared store gives `&mut [u8]` only in exchange for a mutable borrow of the unique handle.
unsafe impl Sync for FrameStore {}

impl FrameStore {
    /// The largest frame size in bytes: offset and length share a word.
    pub const MAX_FRAME_SIZE: u32 = 1 << 15;

    /// Makes frames in memory of the process. Returns the store and all handles.
    ///
    /// # Panics
    /// As [`FrameStore::from_raw`].
    #[must_use]
    pub fn heap(area: AreaId, frames: u32, frame_size: u32) -> (Arc<Self>, Vec<Frame>) {
        let mut memory = vec![0u8; frames as usize * frame_size as usize];
        let base = NonNull::new(memory.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: the vector's buffer has the stated size, does not move when the vector is moved into the box, and is
        // not accessed through the vector any more.
        unsafe { Self::from_raw(area, base, frames, frame_size, Box::new(memory)) }
    }

    /// Makes frames in the memory of a UMEM, which the caller provides. Returns the store and all handles.
    ///
    /// # Safety
    /// `base` must be valid for reads and writes of `frames * frame_size` bytes until `owner` is dropped. These bytes must only be
    /// accessed through the returned handles, and by the kernel in frames that are lent to a port.
    ///
    /// # Panics
    /// If the area's number is above [`AreaId::MAX`], if there are [`Frame::MAX_FRAMES`] frames or more, or if the frame
    /// size is not between twice [`HEADROOM`] and [`FrameStore::MAX_FRAME_SIZE`].
    #[must_use]
    pub unsafe fn from_raw(
        area: AreaId,
        base: NonNull<u8>,
        frames: u32,
        frame_size: u32,
        owner: Box<dyn Any + Send + Sync>,
    ) -> (Arc<Self>, Vec<Frame>) {
        static NEXT_ID: StdAtomicU32 = StdAtomicU32::new(0);
        assert!(area.0 <= AreaId::MAX, "area {} is above {}", area.0, AreaId::MAX);
        assert!(
            frames < Frame::MAX_FRAMES,
            "{frames} frames are more than {}",
            Frame::MAX_FRAMES - 1
        );
        assert!(
            (2 * HEADROOM..=Self::MAX_FRAME_SIZE).contains(&frame_size),
            "a frame size of {frame_size} is not between {} and {}",
            2 * HEADROOM,
            Self::MAX_FRAME_SIZE
        );
        let id = NEXT_ID.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let side = (0..frames)
            .map(|_| Side {
                range: AtomicU32::new(HEADROOM << 16),
                next: AtomicU32::new(NIL),
                link: AtomicU32::new(NIL),
                holder: AtomicU32::new(Holder::Control.encode()),
            })
            .collect();
        let store = Self {
            id,
            area,
            base,
            frame_size,
            side,
            open: Mutex::default(),
            _owner: owner,
        };
        // This is the only place where handles are made without consuming others. The store is new, so each handle is the first of its index.
        let handles = (0..frames).map(|index| Frame::conjure(id, area, index)).collect();
        (Arc::new(store), handles)
    }

    /// Returns the area's number.
    #[must_use]
    pub fn area(&self) -> AreaId {
        self.area
    }

    /// Returns the number of frames in the area.
    #[must_use]
    pub fn frames(&self) -> u32 {
        u32::try_from(self.side.len()).unwrap_or(u32::MAX)
    }

    /// Returns the size of a frame in bytes, including the headroom.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Returns the bytes of a frame behind the headroom.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.frame_size - HEADROOM
    }

    #[inline]
    fn side(&self, frame: &Frame) -> &Side {
        &self.side[self.index_of(frame) as usize]
    }

    #[inline]
    fn start(&self, index: u32, offset: u32) -> NonNull<u8> {
        // SAFETY: index < frames and offset <= frame_size (kept by `set_range`), so this stays within the memory that
        // `from_raw` was promised.
        unsafe {
            self.base
                .add(index as usize * self.frame_size as usize + offset as usize)
        }
    }

    /// Returns the offset and the length of the packet's part in the frame.
    #[must_use]
    #[inline]
    pub fn range(&self, frame: &Frame) -> (u32, u32) {
        let word = self.side(frame).range.load(Ordering::Relaxed);
        (word >> 16, word & 0xffff)
    }

    /// Returns the length of the packet's part in the frame.
    #[must_use]
    #[inline]
    pub fn len(&self, frame: &Frame) -> u32 {
        self.range(frame).1
    }

    /// Sets the offset and the length of the packet's part in the frame.
    ///
    /// # Panics
    /// If the range does not lie in the frame.
    pub fn set_range(&self, frame: &mut Frame, offset: u32, len: u32) {
        assert!(
            offset <= self.frame_size && len <= self.frame_size - offset,
            "{len} bytes at {offset} do not lie in a frame of {}",
            self.frame_size
        );
        self.side(frame).range.store(offset << 16 | len, Ordering::Relaxed);
    }

    /// Moves the start of the packet's part `bytes` towards the front. Returns false and changes nothing if there is no such room.
    #[inline]
    pub(crate) fn grow_front(&self, frame: &mut Frame, bytes: u32) -> bool {
        let range = &self.side(frame).range;
        let word = range.load(Ordering::Relaxed);
        if bytes > word >> 16 {
            return false;
        }
        // The end stays, so the part still lies in the frame, and its length fits the lower half.
        range.store(word - (bytes << 16) + bytes, Ordering::Relaxed);
        true
    }

    /// Moves the start of the packet's part `bytes` towards the end. Returns false and changes nothing if the part is shorter.
    #[inline]
    pub(crate) fn shrink_front(&self, frame: &mut Frame, bytes: u32) -> bool {
        let range = &self.side(frame).range;
        let word = range.load(Ordering::Relaxed);
        if bytes > word & 0xffff {
            return false;
        }
        range.store(word + (bytes << 16) - bytes, Ordering::Relaxed);
        true
    }

    /// Returns the free bytes before the packet's part.
    #[must_use]
    pub fn headroom(&self, frame: &Frame) -> u32 {
        self.range(frame).0
    }

    /// Returns the free bytes behind the packet's part.
    #[must_use]
    pub fn tailroom(&self, frame: &Frame) -> u32 {
        let (offset, len) = self.range(frame);
        self.frame_size - offset - len
    }

    /// Returns the bytes of the packet's part in the frame.
    #[must_use]
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let (offset, len) = self.range(frame);
        // SAFETY: the range lies in the frame (`set_range`). The handle is unique and borrowed for the slice's
        // lifetime, so there is no mutable reference to these bytes.
        unsafe { NonNull::slice_from_raw_parts(self.start(frame.index(), offset), len as usize).as_ref() }
    }

    /// Returns the bytes of the packet's part in the frame for writing.
    #[must_use]
    #[inline]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let (offset, len) = self.range(frame);
        // SAFETY: the range lies in the frame (`set_range`). The handle is unique and mutably borrowed for the slice's
        // lifetime, so there is no other reference to these bytes.
        unsafe { NonNull::slice_from_raw_parts(self.start(frame.index(), offset), len as usize).as_mut() }
    }

    /// Copies as much of `data` behind the headroom as fits, and sets the range to it. Returns the number of copied bytes.
    pub fn fill(&self, frame: &mut Frame, data: &[u8]) -> usize {
        let len = data.len().min(self.room() as usize);
        self.set_range(frame, HEADROOM, u32::try_from(len).unwrap_or(0));
        self.bytes_mut(frame).copy_from_slice(&data[..len]);
        len
    }

    // Links. A frame's index in a link replaces its handle, which was consumed when the link was made.

    pub(crate) fn next_of(&self, index: u32) -> u32 {
        self.side[index as usize].next.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next_of(&self, index: u32, next: u32) {
        self.side[index as usize].next.store(next, Ordering::Relaxed);
    }

    pub(crate) fn link_of(&self, index: u32) -> u32 {
        self.side[index as usize].link.load(Ordering::Relaxed)
    }

    pub(crate) fn set_link_of(&self, index: u32, link: u32) {
        self.side[index as usize].link.store(link, Ordering::Relaxed);
    }

    /// Returns the packet's part in a frame whose handle was consumed by a link. [`Packet::chunks`](crate::Packet::chunks) uses it.
    ///
    /// # Safety
    /// The frame's handle must have been consumed by a link that the caller borrows for `'a`.
    pub(crate) unsafe fn linked_bytes(&self, index: u32) -> &[u8] {
        let word = self.side[index as usize].range.load(Ordering::Relaxed);
        // SAFETY: the range lies in the frame, and the caller borrows the link, which replaces the handle.
        unsafe { NonNull::slice_from_raw_parts(self.start(index, word >> 16), (word & 0xffff) as usize).as_ref() }
    }

    /// Returns the handle of a frame whose link was just removed.
    ///
    /// The caller removed `index` from the link (of a chain or a batch) for which the handle was consumed, so the handle is unique
    /// again.
    pub(crate) fn unlink(&self, index: u32) -> Frame {
        Frame::conjure(self.id, self.area, index)
    }

    /// Returns the frame's index. Panics if the frame is another store's.
    #[inline]
    pub(crate) fn index_of(&self, frame: &Frame) -> u32 {
        assert_eq!(frame.store(), self.id, "{frame:?} is of another store");
        frame.index()
    }

    /// Returns the frame's index in exchange for the handle. Panics if the frame is another store's.
    pub(crate) fn link(&self, frame: Frame) -> u32 {
        self.index_of(&frame);
        frame.into_index()
    }

    // The holders.

    /// Returns the holder of a frame.
    ///
    /// # Panics
    /// If there is no such frame.
    #[must_use]
    pub fn holder(&self, index: u32) -> Holder {
        Holder::decode(self.side[index as usize].holder.load(Ordering::Relaxed))
    }

    pub(crate) fn set_holder(&self, frame: &Frame, holder: Holder) {
        self.side(frame).holder.store(holder.encode(), Ordering::Relaxed);
    }

    pub(crate) fn set_holder_of(&self, index: u32, holder: Holder) {
        self.side[index as usize]
            .holder
            .store(holder.encode(), Ordering::Relaxed);
    }

    /// Returns the number of frames of each holder. It is exact while no frame moves.
    #[must_use]
    pub fn holders(&self) -> BTreeMap<Holder, u32> {
        let mut counts = BTreeMap::new();
        for side in &self.side {
            *counts
                .entry(Holder::decode(side.holder.load(Ordering::Relaxed)))
                .or_insert(0) += 1;
        }
        counts
    }

    /// Returns the number of frames that are neither in a pool nor held by an open port: the frames of packets under way, and lost
    /// frames. It is exact while no frame moves, and zero if all packets have ended and no frame was lost.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.holders()
            .into_iter()
            .filter(|(holder, _)| match holder {
                Holder::Shared | Holder::Pool(_) => false,
                Holder::Port(port) => !open.contains(port),
                Holder::Worker(_) | Holder::Control => true,
            })
            .map(|(_, count)| count)
            .sum()
    }

    /// Records a port as open. Returns false if a port of that number is open already.
    pub fn port_opened(&self, port: PortId) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(port)
    }

    /// Records a port as closed. The frames that it still holds count as outstanding until they are [reclaimed](Self::reclaim).
    pub fn port_closed(&self, port: PortId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }

    /// Lends a frame to a port's rings and returns its index. The handle is consumed until [`FrameStore::take_back`] or
    /// [`FrameStore::reclaim`].
    pub fn lend(&self, frame: Frame, port: PortId) -> u32 {
        self.set_holder(&frame, Holder::Port(port));
        self.link(frame)
    }

    /// Takes a frame back that the port's rings returned, and records `to` as its holder. Returns `None` if the port is not recorded
    /// as its holder.
    ///
    /// # Safety
    /// The caller must own the port's rings, so that no other thread takes frames from that port at the same time. The rings must
    /// have returned this frame, so that the kernel does not access it any more.
    #[must_use]
    pub unsafe fn take_back(&self, index: u32, port: PortId, to: Holder) -> Option<Frame> {
        let side = self.side.get(index as usize)?;
        if side.holder.load(Ordering::Relaxed) != Holder::Port(port).encode() {
            return None;
        }
        side.holder.store(to.encode(), Ordering::Relaxed);
        side.next.store(NIL, Ordering::Relaxed);
        // Only `lend` records a port as the holder, and it consumed the handle.
        Some(Frame::conjure(self.id, self.area, index))
    }

    /// Takes back all frames that are recorded as the port's, after it was closed.
    ///
    /// # Safety
    /// The port's rings must be unmapped and its socket closed, so that neither the kernel nor another thread accesses its frames.
    #[must_use]
    pub unsafe fn reclaim(&self, port: PortId) -> Vec<Frame> {
        // SAFETY: the caller's promise includes the one that `take_back` requires, for every frame of the port.
        (0..self.frames())
            .filter_map(|index| unsafe { self.take_back(index, port, Holder::Control) })
            .collect()
    }
}

impl std::fmt::Debug for FrameStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameStore")
            .field("area", &self.area)
            .field("frames", &self.side.len())
            .field("frame_size", &self.frame_size)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn frames_do_not_overlap() {
        let (store, mut frames) = FrameStore::heap(AreaId(3), 4, 1024);
        for frame in &mut frames {
            let index = frame.index() as u8;
            assert_eq!(
                (frame.area(), store.headroom(frame), store.len(frame)),
                (AreaId(3), HEADROOM, 0)
            );
            store.set_range(frame, 0, 1024);
            store.bytes_mut(frame).fill(index);
        }
        for frame in &frames {
            assert!(store.bytes(frame).iter().all(|byte| *byte == frame.index() as u8));
        }
    }

    #[test]
    fn a_fill_takes_what_fits() {
        let (store, mut frames) = FrameStore::heap(AreaId(0), 1, 512);
        assert_eq!(store.fill(&mut frames[0], &[1; 300]), 256);
        assert_eq!((store.range(&frames[0]), store.tailroom(&frames[0])), ((256, 256), 0));
        assert_eq!(store.fill(&mut frames[0], &[2; 3]), 3);
        assert_eq!(
            (store.bytes(&frames[0]), store.tailroom(&frames[0])),
            (&[2, 2, 2][..], 253)
        );
    }

    #[test]
    #[should_panic(expected = "do not lie in a frame")]
    fn a_range_outside_the_frame_is_refused() {
        let (store, mut frames) = FrameStore::heap(AreaId(0), 1, 512);
        store.set_range(&mut frames[0], 500, 13);
    }

    #[test]
    #[should_panic(expected = "is of another store")]
    fn another_stores_frame_is_refused() {
        let (_one, frames) = FrameStore::heap(AreaId(0), 1, 512);
        let (other, _) = FrameStore::heap(AreaId(0), 1, 512);
        let _ = other.bytes(&frames[0]);
    }

    #[test]
    fn a_closed_ports_frames_are_outstanding_until_they_are_reclaimed() {
        let (store, mut frames) = FrameStore::heap(AreaId(0), 3, 512);
        let (port, other) = (PortId(7), PortId(8));
        assert!(store.port_opened(port) && store.port_opened(other) && !store.port_opened(port));
        assert_eq!(store.outstanding(), 3);
        let index = store.lend(frames.remove(1), port);
        store.lend(frames.remove(1), other);
        assert_eq!(store.outstanding(), 1);
        assert_eq!(
            store.holders(),
            [
                (Holder::Port(PortId(7)), 1),
                (Holder::Port(PortId(8)), 1),
                (Holder::Control, 1)
            ]
            .into()
        );
        // SAFETY: there is no kernel behind these ports.
        unsafe {
            assert_eq!(store.take_back(index, other, Holder::Control), None);
            assert_eq!(store.take_back(99, port, Holder::Control), None);
        }
        store.port_closed(port);
        assert_eq!(store.outstanding(), 2);
        // SAFETY: as above.
        let reclaimed = unsafe { store.reclaim(port) };
        assert_eq!(reclaimed.len(), 1);
        assert_eq!((reclaimed[0].index(), store.holder(index)), (1, Holder::Control));
    }
}
