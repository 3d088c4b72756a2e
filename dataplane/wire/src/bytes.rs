//! Reading and writing fixed-size fields at an offset without a panic: out of range is `None` or `false`.

/// The `N` bytes at `at`.
#[inline(always)]
pub(crate) fn read<const N: usize>(b: &[u8], at: usize) -> Option<&[u8; N]> {
    b.get(at..)?.first_chunk::<N>()
}

/// The `N` bytes at `at`, to be written.
#[inline(always)]
pub(crate) fn read_mut<const N: usize>(b: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    b.get_mut(at..)?.first_chunk_mut::<N>()
}

/// A big-endian 16-bit field.
#[inline(always)]
pub(crate) fn be16(b: &[u8], at: usize) -> Option<u16> {
    read::<2>(b, at).map(|v| u16::from_be_bytes(*v))
}

/// A big-endian 32-bit field.
#[inline(always)]
pub(crate) fn be32(b: &[u8], at: usize) -> Option<u32> {
    read::<4>(b, at).map(|v| u32::from_be_bytes(*v))
}

/// Writes a field; `false` when it does not fit.
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

/// Writes a big-endian 16-bit field; `false` when it does not fit.
#[inline(always)]
pub(crate) fn put16(b: &mut [u8], at: usize, value: u16) -> bool {
    put(b, at, value.to_be_bytes())
}
