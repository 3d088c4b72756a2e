//! Frames: fixed-size pieces of one shared memory area, named by number.
//!
//! A [`Frame`] is the only handle to its bytes: it is neither `Clone` nor `Copy`, so whoever has it may read and write
//! them without a lock. It has no `Drop`: a frame that is forgotten stays counted by
//! [`FrameStore::outstanding`](crate::FrameStore::outstanding), and tests assert that this is zero.

use std::fmt;

use heddle_ids::{PortId, WorkerId};

/// Which memory area (UMEM) a frame belongs to. Copy-mode ports share area 0; a zero-copy NIC will have one of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AreaId(pub u8);

impl AreaId {
    /// Areas that a frame's number can tell apart.
    pub const MAX: u8 = 15;
}

/// The unique handle of one frame: area in the top 4 bits, index within the area below, and the store that made it.
///
/// At any time at most one `Frame` exists for each (store, index). Everything unsafe in this crate rests on that: a
/// handle is made only when its store is created ([`FrameStore::heap`](crate::FrameStore::heap),
/// [`FrameStore::from_raw`](crate::FrameStore::from_raw)), or in exchange for one that was consumed before (put on a
/// pool's stack, linked into a chain, or lent to a port).
#[derive(PartialEq, Eq)]
pub struct Frame {
    /// The store's number, unique in the process: a frame shown to another store is a bug that is caught.
    store: u32,
    /// Area and index.
    number: u32,
}

impl Frame {
    /// Frames an area can have at most.
    pub const MAX_FRAMES: u32 = 1 << 28;

    /// The handle of frame `index`. Private to the crate: the caller keeps the uniqueness described above.
    pub(crate) const fn conjure(store: u32, area: AreaId, index: u32) -> Self {
        Self {
            store,
            number: (area.0 as u32) << 28 | index,
        }
    }

    /// The area that the frame lies in.
    #[must_use]
    pub const fn area(&self) -> AreaId {
        AreaId((self.number >> 28) as u8)
    }

    /// The frame's number within its area.
    #[must_use]
    #[inline]
    pub const fn index(&self) -> u32 {
        self.number & (Self::MAX_FRAMES - 1)
    }

    /// The index, in exchange for the handle.
    pub(crate) const fn into_index(self) -> u32 {
        self.index()
    }

    pub(crate) const fn store(&self) -> u32 {
        self.store
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {}:{}", self.area().0, self.index())
    }
}

/// Who has a frame: kept in a side array, so that the frames of a closed port or a dead worker can be found again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Holder {
    /// The shared pool.
    Shared,
    /// The pool of the worker of that number.
    Pool(WorkerId),
    /// The hands of the worker of that number: a packet under way, also in a hand-over queue.
    Worker(WorkerId),
    /// The rings of the port of that number.
    Port(PortId),
    /// The control thread: frames just made, or reclaimed and not yet put back.
    Control,
}

impl Holder {
    pub(crate) const fn encode(self) -> u32 {
        match self {
            Self::Shared => 0,
            Self::Pool(id) => 1 << 16 | id.0 as u32,
            Self::Worker(id) => 2 << 16 | id.0 as u32,
            Self::Port(id) => 3 << 16 | id.0 as u32,
            Self::Control => 4 << 16,
        }
    }

    pub(crate) const fn decode(word: u32) -> Self {
        match word >> 16 {
            0 => Self::Shared,
            1 => Self::Pool(WorkerId(word as u8)),
            2 => Self::Worker(WorkerId(word as u8)),
            3 => Self::Port(PortId(word as u16)),
            _ => Self::Control,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("shared pool"),
            Self::Pool(id) => write!(f, "pool of worker {id}"),
            Self::Worker(id) => write!(f, "worker {id}"),
            Self::Port(id) => write!(f, "port {id}"),
            Self::Control => f.write_str("control"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_survive_their_encoding() {
        for holder in [
            Holder::Shared,
            Holder::Pool(WorkerId(0)),
            Holder::Pool(WorkerId(255)),
            Holder::Worker(WorkerId(7)),
            Holder::Port(PortId(0)),
            Holder::Port(PortId(u16::MAX)),
            Holder::Control,
        ] {
            assert_eq!(Holder::decode(holder.encode()), holder);
        }
    }

    #[test]
    fn a_frame_names_its_area_and_index() {
        let frame = Frame::conjure(9, AreaId(AreaId::MAX), Frame::MAX_FRAMES - 1);
        assert_eq!((frame.area(), frame.index()), (AreaId(15), Frame::MAX_FRAMES - 1));
    }
}
