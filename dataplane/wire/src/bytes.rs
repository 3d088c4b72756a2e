//! Reads and writes fixed-size fields at an offset without a panic. An offset out of range gives `None` or `false`.

/// Returns the `N` bytes at `at`.
#[inline(always)]
pub(crate) fn read<const N: usize>(b: &[u8], at: usize) -> Option<&[u8; N]> {
    b.get(at..)?.first_chunk::<N>()
}

/// Returns the `N` bytes at `at` for writing.
#[inline(always)]
pub(crate) fn read_mut<const N: usize>(b: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    b.get_mut(at..)?.first_chunk_mut::<N>()
}

/// Reads a big-endian 16-bit field.
#[inline(always)]
pub(crate) fn be16(b: &[u8], at: usize) -> Option<u16> {
    read::<2>(b, at).map(|v| u16::from_be_bytes(*v))
}

/// Reads a big-endian 32-bit field.
#[inline(always)]
pub(crate) fn be32(b: &[u8], at: usize) -> Option<u32> {
    read::<4>(b, at).map(|v| u32::from_be_bytes(*v))
}

/// Writes a field. Returns false if it does not fit.
#[inline(always)]
pub(crate) fn put<const N: usize>(b: &mut [u8], at: usize, value: [u8; N]) -> bool {
    match read_mut::<N>(b, at) {
        Some(field) => {
            *field = value;
            true
        }
        None => false,
    }
}

/// Writes a big-endian 16-bit field. Returns false if it does not fit.
#[inline(always)]
pub(crate) fn put16(b: &mut [u8], at: usize, value: u16) -> bool {
    put(b, at, value.to_be_bytes())
}
