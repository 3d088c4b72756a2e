//! The rings that a socket shares with the kernel (Documentation/networking/af_xdp.rst): a producer's and a consumer's end.
//!
//! xsk-rs makes the sockets. But the address in its descriptors cannot be set, so it could not send a packet whose first byte has
//! moved. This module therefore maps the rings a second time, and xsk-rs's mappings are not used.
//!
//! # Ordering
//!
//! The producer writes slots and then releases its index. The consumer acquires that index, reads slots and then releases its own
//! index. The producer acquires that one before it writes a slot again. Each end belongs to one thread at a time (`&mut`), so it
//! need not read its own index.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// The type of a ring's slot: plain data for which any bits are a valid value.
pub(crate) trait Slot: Copy + Send + 'static {}

/// The slot of fill and completion rings: an address.
impl Slot for u64 {}

/// The slot of RX and TX rings: a packet or a part of one (the kernel's `struct xdp_desc`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(crate) struct Desc {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) options: u32,
}

impl Slot for Desc {}

/// One of a socket's four rings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Rx,
    Tx,
    Fill,
    Completion,
}

/// The addresses of a ring's parts, and the owner of the memory.
#[derive(Debug)]
struct Layout<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<T>,
    /// The number of slots, a power of two.
    size: u32,
    _memory: Memory,
}

/// The owner of a ring's memory.
#[derive(Debug)]
enum Memory {
    Mapped {
        _mapping: Mapping,
    },
    #[cfg(test)]
    Heap {
        _heap: std::sync::Arc<testing::Heap>,
    },
}

// SAFETY: the pointers point into memory that the layout owns and that does not depend on a thread. The slots are `Send`.
unsafe impl<T: Slot> Send for Layout<T> {}

/// A memory mapping, which is unmapped when it is dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` come from a successful mmap, and every holder of a pointer into it owns this mapping.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl<T: Slot> Layout<T> {
    /// Maps a ring of `size` slots of a bound AF_XDP socket.
    fn map(socket: BorrowedFd<'_>, which: Which, size: u32) -> io::Result<Self> {
        let offsets = offsets(socket)?;
        let (part, page) = match which {
            Which::Rx => (offsets.rx, libc::XDP_PGOFF_RX_RING),
            Which::Tx => (offsets.tx, libc::XDP_PGOFF_TX_RING),
            Which::Fill => (offsets.fr, off(libc::XDP_UMEM_PGOFF_FILL_RING)?),
            Which::Completion => (offsets.cr, off(libc::XDP_UMEM_PGOFF_COMPLETION_RING)?),
        };
        let at = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        let len = at(part.desc)? + size as usize * size_of::<T>();
        // SAFETY: a new shared mapping at an address that the kernel chooses; the result is checked.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page,
            )
        };
        let base = NonNull::new(base.cast::<u8>()).filter(|_| base != libc::MAP_FAILED);
        let base = base.ok_or_else(io::Error::last_os_error)?;
        let mapping = Mapping { base, len };
        let (producer, consumer, flags, slots) =
            (at(part.producer)?, at(part.consumer)?, at(part.flags)?, at(part.desc)?);
        // SAFETY: the offsets of the indices and the flags come from the kernel and lie before the slots, and the mapping reaches
        // to the end of the slots. All are aligned for their types, because the kernel has the same types there.
        unsafe {
            Ok(Self {
                producer: base.add(producer).cast(),
                consumer: base.add(consumer).cast(),
                flags: base.add(flags).cast(),
                slots: base.add(slots).cast(),
                size,
                _memory: Memory::Mapped { _mapping: mapping },
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into memory that the layout owns; the other end changes it atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below `size`, the number of slots.
        unsafe { self.slots.add((index & (self.size - 1)) as usize) }
    }
}

fn off(offset: libc::c_ulonglong) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(io::Error::other)
}

/// Returns the offsets of the parts of a socket's rings.
fn offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: a plain C struct of integers, for which zeros are a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::xdp_mmap_offsets>()).map_err(io::Error::other)?;
    // SAFETY: the buffer is valid for `len` bytes, which the kernel does not exceed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(offsets)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The producer's end of a ring: fill and TX.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Layout<T>,
    /// The index of the slot that is written next.
    next: u32,
    /// The index that was released to the other end.
    submitted: u32,
    /// The consumer's index when it was last read.
    consumed: u32,
}

impl<T: Slot> Producer<T> {
    /// Maps the process's end of a socket's fill or TX ring.
    pub(crate) fn map(socket: BorrowedFd<'_>, which: Which, size: u32) -> io::Result<Self> {
        Layout::map(socket, which, size).map(Self::over)
    }

    fn over(ring: Layout<T>) -> Self {
        let next = ring.producer().load(Ordering::Relaxed);
        let consumed = ring.consumer().load(Ordering::Acquire);
        Self {
            ring,
            next,
            submitted: next,
            consumed,
        }
    }

    /// Returns the number of slots that can be written. Reads the other end's index only if fewer than `wanted` are known to be free.
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        let room = |consumed: u32| self.ring.size - self.next.wrapping_sub(consumed).min(self.ring.size);
        if room(self.consumed) < wanted {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
        }
        self.ring.size - self.next.wrapping_sub(self.consumed).min(self.ring.size)
    }

    /// Writes the next slot. Returns false if the ring is full.
    #[must_use]
    pub(crate) fn push(&mut self, value: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: the slot is in the ring, the consumer has released it (`room`) and does not read it before `submit`.
        unsafe { self.ring.slot(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Releases the written slots to the other end.
    pub(crate) fn submit(&mut self) {
        if self.submitted != self.next {
            self.ring.producer().store(self.next, Ordering::Release);
            self.submitted = self.next;
        }
    }

    /// Returns the number of submitted slots that the other end has not taken yet.
    pub(crate) fn waiting(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.submitted.wrapping_sub(self.consumed)
    }

    /// Returns the same as [`Producer::waiting`], without storing the other end's index.
    pub(crate) fn waiting_now(&self) -> u32 {
        self.submitted
            .wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// Returns true if the kernel sleeps and must be woken to take submitted entries.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The consumer's end of a ring: completion and RX.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Layout<T>,
    /// The index of the slot that is read next.
    next: u32,
    /// The index that was released to the other end.
    released: u32,
    /// The producer's index when it was last read.
    produced: u32,
}

impl<T: Slot> Consumer<T> {
    /// Maps the process's end of a socket's completion or RX ring.
    pub(crate) fn map(socket: BorrowedFd<'_>, which: Which, size: u32) -> io::Result<Self> {
        Layout::map(socket, which, size).map(Self::over)
    }

    fn over(ring: Layout<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        let produced = ring.producer().load(Ordering::Acquire);
        Self {
            ring,
            next,
            released: next,
            produced,
        }
    }

    /// Reads the next slot, if the other end has written one.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the slot is in the ring, the producer has released it, and does not write it again before `release`.
        // Any bits are a value of `T`.
        let value = unsafe { self.ring.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    /// Releases the slots that were read to the other end.
    pub(crate) fn release(&mut self) {
        if self.released != self.next {
            self.ring.consumer().store(self.next, Ordering::Release);
            self.released = self.next;
        }
    }
}

/// A read-only view of a ring's level, for neither end.
#[derive(Debug)]
pub(crate) struct Gauge<T> {
    ring: Layout<T>,
}

impl<T: Slot> Gauge<T> {
    /// Maps a ring of a socket.
    pub(crate) fn map(socket: BorrowedFd<'_>, which: Which, size: u32) -> io::Result<Self> {
        Ok(Self {
            ring: Layout::map(socket, which, size)?,
        })
    }

    /// Returns the number of slots that were produced and not consumed. The two indices are not read at the same moment, so the
    /// value is approximate in a busy ring, but never above the ring's size.
    pub(crate) fn level(&self) -> u32 {
        let consumed = self.ring.consumer().load(Ordering::Relaxed);
        let produced = self.ring.producer().load(Ordering::Relaxed);
        produced.wrapping_sub(consumed).min(self.ring.size)
    }
}

#[cfg(test)]
mod testing {
    use super::*;
    use std::cell::UnsafeCell;
    use std::sync::Arc;

    /// A ring's indices, flags and slots in memory of the process.
    #[derive(Debug)]
    pub(super) struct Heap {
        words: [AtomicU32; 3],
        slots: Vec<UnsafeCell<u64>>,
    }

    // SAFETY: the slots are accessed only by the two ends, in the order that the module documentation describes.
    unsafe impl Sync for Heap {}

    fn layout(heap: &Arc<Heap>, size: u32) -> Layout<u64> {
        Layout {
            producer: NonNull::from(&heap.words[0]),
            consumer: NonNull::from(&heap.words[1]),
            flags: NonNull::from(&heap.words[2]),
            slots: NonNull::new(heap.slots.as_ptr().cast_mut().cast()).unwrap(),
            size,
            _memory: Memory::Heap {
                _heap: Arc::clone(heap),
            },
        }
    }

    /// Makes both ends of a ring in memory, whose indices start at `start`.
    pub(super) fn pair(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>) {
        let heap = Arc::new(Heap {
            words: [AtomicU32::new(start), AtomicU32::new(start), AtomicU32::new(0)],
            slots: (0..size).map(|_| UnsafeCell::new(0)).collect(),
        });
        (Producer::over(layout(&heap, size)), Consumer::over(layout(&heap, size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn slots_are_read_after_submit_and_written_after_release() {
        let (mut producer, mut consumer) = testing::pair(2, u32::MAX);
        assert!(producer.push(1) && producer.push(2) && !producer.push(3));
        assert_eq!(consumer.pop(), None);
        producer.submit();
        assert_eq!(producer.waiting(), 2);
        assert_eq!(
            (consumer.pop(), consumer.pop(), consumer.pop()),
            (Some(1), Some(2), None)
        );
        assert!(!producer.push(3));
        consumer.release();
        assert_eq!(producer.waiting(), 0);
        assert!(producer.push(3));
    }

    #[test]
    fn two_threads_pass_everything_in_order() {
        let (mut producer, mut consumer) = testing::pair(8, u32::MAX - 3);
        let count = if cfg!(miri) { 100 } else { 100_000 };
        let sender = std::thread::spawn(move || {
            for value in 0..count {
                while !producer.push(value) {
                    std::hint::spin_loop();
                }
                producer.submit();
            }
        });
        for value in 0..count {
            let got = loop {
                if let Some(got) = consumer.pop() {
                    break got;
                }
                std::hint::spin_loop();
            };
            consumer.release();
            assert_eq!(got, value);
        }
        sender.join().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }) })]

        #[test]
        fn a_ring_is_a_queue(start: u32, size in 0u32..6, steps in prop::collection::vec(0u8..4, 0..200)) {
            let (mut producer, mut consumer) = testing::pair(1 << size, start);
            let (mut written, mut shown, mut unreleased) = (VecDeque::new(), VecDeque::new(), 0usize);
            for (value, step) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let room = written.len() + shown.len() + unreleased < 1 << size;
                        prop_assert_eq!(producer.push(value as u64), room);
                        if room {
                            written.push_back(value as u64);
                        }
                    }
                    1 => {
                        producer.submit();
                        shown.append(&mut written);
                    }
                    2 => {
                        let got = consumer.pop();
                        prop_assert_eq!(got, shown.pop_front());
                        unreleased += usize::from(got.is_some());
                    }
                    _ => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
                prop_assert_eq!(producer.room(1 << size) as usize, (1 << size) - written.len() - shown.len() - unreleased);
            }
        }
    }
}
