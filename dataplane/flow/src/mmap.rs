//! The memory of a table: cache lines of atomics on the heap, in anonymous pages or in a mapped file.
//!
//! Only this module (a mapping as a slice of atomics, and the prefetch instruction) and `simd` contain `unsafe` code in this crate.

use memmap2::MmapRaw;

use crate::sync::AtomicU64;

/// The number of words in a line.
pub(crate) const LINE_WORDS: usize = 8;

/// The size of a line in bytes.
pub(crate) const LINE_BYTES: usize = LINE_WORDS * 8;

/// One cache line.
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [AtomicU64; LINE_WORDS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == LINE_BYTES);

impl Default for Line {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The lines of a table.
pub(crate) enum Memory {
    /// On the heap, if there are no pages to map.
    Heap(Box<[Line]>),
    /// In pages of a file or in anonymous ones.
    Mapped(Mapping),
}

impl Memory {
    /// Makes zeroed lines, which are freed with the table.
    #[cfg_attr(
        any(loom, miri),
        expect(unused_variables, reason = "the heap has the pages that it has")
    )]
    pub(crate) fn anonymous(lines: usize, huge: bool) -> Self {
        #[cfg(not(any(loom, miri)))]
        if let Ok(pages) = pages(lines * LINE_BYTES, huge)
            && let Some(mapping) = Mapping::new(pages.into(), huge)
        {
            return Self::Mapped(mapping);
        }
        Self::Heap((0..lines).map(|_| Line::default()).collect())
    }

    #[inline]
    pub(crate) fn lines(&self) -> &[Line] {
        match self {
            Self::Heap(lines) => lines,
            Self::Mapped(mapping) => mapping.lines(),
        }
    }
}

/// Maps anonymous pages: large ones if the administrator has reserved enough, else the kernel's default.
#[cfg(not(any(loom, miri)))]
fn pages(bytes: usize, huge: bool) -> std::io::Result<memmap2::MmapMut> {
    /// The base-2 logarithm of the large page's size on x86-64 and arm64.
    const LARGE: u8 = 21;
    let options = || memmap2::MmapOptions::new();
    if huge && bytes >= 1 << LARGE {
        let whole = bytes.next_multiple_of(1 << LARGE);
        if let Ok(pages) = options().len(whole).huge(Some(LARGE)).map_anon() {
            return Ok(pages);
        }
    }
    options().len(bytes).map_anon()
}

/// A mapping, which is accessed only as lines.
pub(crate) struct Mapping {
    pages: MmapRaw,
    count: usize,
}

impl Mapping {
    /// Returns `None` under a model checker, where atomics are not plain words.
    pub(crate) fn new(pages: MmapRaw, huge: bool) -> Option<Self> {
        if cfg!(loom) {
            return None;
        }
        // Optional: without it, or if the file system has no large pages, the table works with small ones.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(if huge {
            memmap2::Advice::HugePage
        } else {
            memmap2::Advice::NoHugePage
        });
        let count = pages.len() / LINE_BYTES;
        Some(Self { pages, count })
    }

    #[inline]
    pub(crate) fn lines(&self) -> &[Line] {
        // SAFETY: the mapping is readable and writable, begins at a page boundary, which is a multiple of a line's alignment,
        // holds `count` whole lines, and lives as long as `self`. Any bits are a valid `Line`: it consists of atomic words
        // (`new` refuses where it does not). Nothing in this process makes a plain reference to the mapped bytes; another
        // process that writes the file races with atomic accesses only, and the file is locked and private to root. Nobody
        // shortens the file while it is locked.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.count) }
    }
}

/// Prefetches a line.
#[inline]
pub(crate) fn prefetch(line: &Line) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    // SAFETY: prefetching has no effect on memory, and the pointer comes from a reference.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(line).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = line;
}
