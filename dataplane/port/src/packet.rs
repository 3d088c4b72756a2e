//! A packet: a head frame and, rarely, a chain of further frames.
//!
//! Stages read the head frame only. The other frames are sent and freed with it.

use crate::frame::Frame;
use crate::store::{FrameStore, NIL};

/// A packet, which owns all its frames. It is not `Clone` and has no `Drop`: it must be sent, handed over or freed
/// ([`WorkerPool::free_packet`](crate::WorkerPool::free_packet)).
///
/// The frames behind the head are linked by index in the store. The links replace their handles.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a packet that is forgotten keeps its frames"]
pub struct Packet {
    head: Frame,
    len: u32,
    frames: u8,
    segment_size: u16,
}

impl Packet {
    /// The most frames of a packet: the kernel's default MAX_SKB_FRAGS of 17, and the head.
    pub const MAX_FRAMES: u8 = 18;

    /// Makes a packet of one frame, with the length of the frame's range.
    pub fn new(store: &FrameStore, head: Frame) -> Self {
        let len = store.len(&head);
        let index = store.index_of(&head);
        store.set_next_of(index, NIL);
        store.set_link_of(index, index);
        Self {
            head,
            len,
            frames: 1,
            segment_size: 0,
        }
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The frame itself, if the packet has [`Packet::MAX_FRAMES`] already.
    pub fn append(&mut self, store: &FrameStore, frame: Frame) -> Result<(), Frame> {
        if self.frames >= Self::MAX_FRAMES {
            return Err(frame);
        }
        self.len += store.len(&frame);
        self.frames += 1;
        let head = store.index_of(&self.head);
        let last = store.link_of(head);
        let index = store.link(frame);
        store.set_next_of(index, NIL);
        store.set_next_of(last, index);
        store.set_link_of(head, index);
        Ok(())
    }

    /// Returns the first frame.
    #[must_use]
    #[inline]
    pub fn head(&self) -> &Frame {
        &self.head
    }

    /// Returns the length of the packet over all frames, in octets.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns true if the packet has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of frames.
    #[must_use]
    #[inline]
    pub fn frames(&self) -> u8 {
        self.frames
    }

    /// Returns the octets of TCP payload in each segment of this packet on its path; 0 if the packet is sent as it is.
    #[must_use]
    #[inline]
    pub fn segment_size(&self) -> u16 {
        self.segment_size
    }

    /// Sets the octets of TCP payload in each segment of this packet, which a port with
    /// [`Capabilities::tx_large_segments`](crate::Capabilities::tx_large_segments) sends as one large segment of that size.
    #[inline]
    pub fn set_segment_size(&mut self, octets: u16) {
        self.segment_size = octets;
    }

    /// Returns the head frame's bytes.
    #[must_use]
    #[inline]
    pub fn bytes<'a>(&'a self, store: &'a FrameStore) -> &'a [u8] {
        store.bytes(&self.head)
    }

    /// Returns the head frame's bytes for writing.
    #[must_use]
    #[inline]
    pub fn bytes_mut<'a>(&'a mut self, store: &'a FrameStore) -> &'a mut [u8] {
        store.bytes_mut(&mut self.head)
    }

    /// Returns the bytes of each frame, in order.
    pub fn chunks<'a>(&'a self, store: &'a FrameStore) -> impl Iterator<Item = &'a [u8]> {
        let mut next = store.next_of(store.index_of(&self.head));
        std::iter::once(store.bytes(&self.head)).chain(std::iter::from_fn(move || {
            if next == NIL {
                return None;
            }
            // SAFETY: the frame's handle was consumed by this packet's chain (`append`), and the packet is borrowed.
            let bytes = unsafe { store.linked_bytes(next) };
            next = store.next_of(next);
            Some(bytes)
        }))
    }

    /// Copies the whole packet into one vector.
    #[must_use]
    pub fn to_vec(&self, store: &FrameStore) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len as usize);
        self.chunks(store).for_each(|chunk| bytes.extend_from_slice(chunk));
        bytes
    }

    /// Sets the range of the head frame. The packet's length changes accordingly.
    ///
    /// # Panics
    /// If the range does not lie in the frame.
    pub fn set_head_range(&mut self, store: &FrameStore, offset: u32, len: u32) {
        let before = store.len(&self.head);
        store.set_range(&mut self.head, offset, len);
        self.len = self.len - before + len;
    }

    /// Cuts the packet off behind `len` octets. Returns false and changes nothing if it has several frames or is shorter.
    pub fn truncate(&mut self, store: &FrameStore, len: u32) -> bool {
        if self.frames > 1 || len > self.len {
            return false;
        }
        let (offset, _) = store.range(&self.head);
        self.set_head_range(store, offset, len);
        true
    }

    /// Makes room for `bytes` more at the front of the packet. Returns false and changes nothing if the head frame has no such room.
    #[must_use]
    #[inline]
    pub fn grow_front(&mut self, store: &FrameStore, bytes: u32) -> bool {
        let grown = store.grow_front(&mut self.head, bytes);
        self.len += if grown { bytes } else { 0 };
        grown
    }

    /// Removes `bytes` from the front. Returns false and changes nothing if the head frame is shorter.
    #[must_use]
    #[inline]
    pub fn shrink_front(&mut self, store: &FrameStore, bytes: u32) -> bool {
        let shrunk = store.shrink_front(&mut self.head, bytes);
        self.len -= if shrunk { bytes } else { 0 };
        shrunk
    }

    /// Splits the packet into its frames, in order.
    pub fn into_frames(self, store: &FrameStore) -> Frames<'_> {
        let next = store.next_of(store.index_of(&self.head));
        store.set_next_of(store.index_of(&self.head), NIL);
        Frames {
            store,
            first: Some(self.head),
            next,
        }
    }

    /// Separates the frames behind the head and returns them. The packet keeps its head frame.
    pub fn split_following<'a>(&mut self, store: &'a FrameStore) -> Frames<'a> {
        let head = store.index_of(&self.head);
        let next = store.next_of(head);
        store.set_next_of(head, NIL);
        store.set_link_of(head, head);
        self.len = store.len(&self.head);
        self.frames = 1;
        Frames {
            store,
            first: None,
            next,
        }
    }
}

/// The frames of a packet that was split. Frames that are not taken out of it are lost.
#[must_use = "frames that are not taken are lost"]
#[derive(Debug)]
pub struct Frames<'a> {
    store: &'a FrameStore,
    first: Option<Frame>,
    next: u32,
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        if let Some(frame) = self.first.take() {
            return Some(frame);
        }
        if self.next == NIL {
            return None;
        }
        let index = self.next;
        self.next = self.store.next_of(index);
        self.store.set_next_of(index, NIL);
        // `append` alone linked `index`, and this chain, which owned it, is being split.
        Some(self.store.unlink(index))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::{AreaId, HEADROOM};

    fn chain(sizes: &[u32]) -> (std::sync::Arc<FrameStore>, Packet) {
        let (store, mut frames) = FrameStore::heap(AreaId(0), u32::try_from(sizes.len()).unwrap(), 1024);
        let mut packet = None;
        for (i, size) in sizes.iter().enumerate() {
            let mut frame = frames.remove(0);
            store.fill(&mut frame, &vec![i as u8; *size as usize]);
            match &mut packet {
                None => packet = Some(Packet::new(&store, frame)),
                Some(packet) => Packet::append(packet, &store, frame).unwrap(),
            }
        }
        (store, packet.unwrap())
    }

    #[test]
    fn a_chain_keeps_order_and_length() {
        let (store, packet) = chain(&[3, 2, 1]);
        assert_eq!((packet.len(), packet.frames()), (6, 3));
        assert_eq!(packet.to_vec(&store), [0, 0, 0, 1, 1, 2]);
        let indices: Vec<u32> = packet.into_frames(&store).map(|f| f.index()).collect();
        assert_eq!(indices, [0, 1, 2]);
    }

    #[test]
    fn a_segment_size_stays_with_the_packet() {
        let (store, mut packet) = chain(&[100, 100, 100]);
        assert_eq!(packet.segment_size(), 0);
        packet.set_segment_size(u16::MAX);
        packet.set_head_range(&store, HEADROOM, 50);
        let moved = packet;
        assert_eq!((moved.segment_size(), moved.len()), (u16::MAX, 250));
    }

    #[test]
    fn a_chain_has_a_bound() {
        let (store, mut frames) = FrameStore::heap(AreaId(0), 20, 1024);
        let mut packet = Packet::new(&store, frames.remove(0));
        for frame in frames.drain(..17) {
            packet.append(&store, frame).unwrap();
        }
        assert_eq!(packet.append(&store, frames.remove(0)).unwrap_err().index(), 18);
        assert_eq!(packet.frames(), Packet::MAX_FRAMES);
    }

    #[test]
    fn the_front_grows_into_the_headroom_only() {
        let (store, mut packet) = chain(&[10, 5]);
        assert!(packet.grow_front(&store, 50));
        assert_eq!((packet.len(), packet.bytes(&store).len()), (65, 60));
        assert!(!packet.grow_front(&store, HEADROOM - 49));
        assert!(packet.shrink_front(&store, 60));
        assert!(!packet.shrink_front(&store, 1));
        assert_eq!(packet.len(), 5);
    }

    #[test]
    fn the_head_can_be_separated() {
        let (store, mut packet) = chain(&[10, 5, 7]);
        let following: Vec<Frame> = packet.split_following(&store).collect();
        assert_eq!(following.len(), 2);
        assert_eq!((packet.len(), packet.frames()), (10, 1));
        for frame in following {
            packet.append(&store, frame).unwrap();
        }
        assert_eq!(packet.len(), 22);
    }
}
