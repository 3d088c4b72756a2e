//! Frames: fixed-size parts of one shared memory area, identified by number.
//!
//! A [`Frame`] is the only handle to its bytes. It is neither `Clone` nor `Copy`, so its owner may read and write them without a
//! lock. It has no `Drop`: a frame that is lost stays counted by
//! [`FrameStore::outstanding`](crate::FrameStore::outstanding), and tests assert that this is zero.

use std::fmt;

use heddle_ids::{PortId, WorkerId};

/// The number of a memory area (UMEM). Copy-mode ports share area 0. A zero-copy NIC will have one of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AreaId(pub u8);

impl AreaId {
    /// The highest number of an area: a [`Frame`] has four bits for it.
    pub const MAX: u8 = 15;
}

/// The unique handle of one frame: the area in the top 4 bits, the index within the area below, and the store that made it.
///
/// At any time at most one `Frame` exists for each (store, index). All unsafe code of this crate depends on this. A handle is
/// made only when its store is created ([`FrameStore::heap`](crate::FrameStore::heap),
/// [`FrameStore::from_raw`](crate::FrameStore::from_raw)), or in exchange for one that was consumed before (pushed on a pool's
/// stack, linked into a chain, or lent to a port).
#[derive(PartialEq, Eq)]
pub struct Frame {
    /// The store's number, unique in the process. A store panics when it is given another store's frame.
    store: u32,
    /// Area and index.
    number: u32,
}

impl Frame {
    /// The limit of the frames of an area, which has fewer: a [`Frame`] has 28 bits for the index.
    pub const MAX_FRAMES: u32 = 1 << 28;

    /// Makes the handle of frame `index`. The caller must keep the uniqueness described above.
    pub(crate) const fn conjure(store: u32, area: AreaId, index: u32) -> Self {
        Self {
            store,
            number: (area.0 as u32) << 28 | index,
        }
    }

    /// Returns the frame's area.
    #[must_use]
    pub const fn area(&self) -> AreaId {
        AreaId((self.number >> 28) as u8)
    }

    /// Returns the frame's number within its area.
    #[must_use]
    #[inline]
    pub const fn index(&self) -> u32 {
        self.number & (Self::MAX_FRAMES - 1)
    }

    /// Returns the index in exchange for the handle.
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

/// The holder of a frame. A side array records it for each frame, so that the frames of a closed port or a dead worker can be
/// found again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Holder {
    /// The shared pool.
    Shared,
    /// The pool of a worker.
    Pool(WorkerId),
    /// A packet under way, which this worker allocated. It may be in a hand-over lane.
    Worker(WorkerId),
    /// The rings of a port.
    Port(PortId),
    /// The control thread: frames that were just made, or that were reclaimed and not released yet.
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
