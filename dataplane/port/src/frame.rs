//! Frames: fixed-size pieces of one shared memory area, named by number.
//!
//! A [`Frame`] is the only handle to its bytes: it is neither `Clone` nor `Copy`, so whoever has it may read and write
//! them without a lock. It has no `Drop`: a frame that is forgotten stays counted by
//! [`FrameStore::outstanding`](crate::FrameStore::outstanding), and tests assert that this is zero.

use std::fmt;

/// Which memory area (UMEM) a frame belongs to. Copy-mode ports share area 0; a zero-copy NIC will have one of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AreaNo(pub u8);

/// The unique handle of one frame: area in the top 4 bits, index within the area below.
#[derive(PartialEq, Eq)]
#[repr(transparent)]
pub struct Frame(u32);

impl Frame {
    /// Frames an area can have at most.
    pub const MAX_FRAMES: u32 = 1 << 28;

    /// The area that the frame lies in.
    #[must_use]
    pub const fn area(&self) -> AreaNo {
        AreaNo((self.0 >> 28) as u8)
    }

    /// The frame's number within its area.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.0 & (Self::MAX_FRAMES - 1)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {}:{}", self.area().0, self.index())
    }
}

/// Who has a frame: kept in a side array, so that the frames of a closed port or a dead worker can be found again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Holder {
    /// The shared pool.
    Shared,
    /// The pool or the hands of the worker of that number.
    Worker(u8),
    /// The kernel, in the rings of the port of that number.
    Port(u16),
}
