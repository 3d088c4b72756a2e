//! The CRC32c (Castagnoli) of SCTP (RFC 9260 appendix A): over slices, and as an incremental update for a change of four octets.

/// The polynomial, bits reversed.
const POLY: u32 = 0x82f6_3b78;

/// A running CRC32c.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32c {
    /// Starts with no octets.
    #[must_use]
    pub const fn new() -> Self {
        Self(!0)
    }

    /// Adds the next octets.
    pub fn push(&mut self, bytes: &[u8]) {
        // The `crc32c` crate takes and returns a finished CRC, which is the state with all bits inverted.
        self.0 = !crc32c::crc32c_append(!self.0, bytes);
    }

    /// Returns the CRC in SCTP's byte order.
    #[must_use]
    pub const fn finish(self) -> [u8; 4] {
        (!self.0).to_le_bytes()
    }

    /// Returns the CRC field of a packet after the octets `old` were replaced by `new`, with `behind` octets after them.
    ///
    /// The CRC is linear: the CRC of the difference of two packets is the difference of their CRCs. So the payload need not be
    /// read, and a field that was wrong stays wrong.
    #[must_use]
    pub fn update(field: [u8; 4], old: [u8; 4], new: [u8; 4], behind: usize) -> [u8; 4] {
        let mut difference = Self(0);
        difference.push(&[old[0] ^ new[0], old[1] ^ new[1], old[2] ^ new[2], old[3] ^ new[3]]);
        (u32::from_le_bytes(field) ^ advance(difference.0, behind)).to_le_bytes()
    }
}

/// `POWERS[k]` is x^(8 * 2^k) with reversed bits: the factor that stands for 2^k zero octets.
static POWERS: [u32; usize::BITS as usize] = powers();

const fn powers() -> [u32; usize::BITS as usize] {
    // Bit 31 stands for x^0, so this is x^8.
    let mut p = [1 << (31 - 8); usize::BITS as usize];
    let mut k = 1;
    while k < p.len() {
        p[k] = multiply(p[k - 1], p[k - 1]);
        k += 1;
    }
    p
}

/// Returns the CRC state after `zeros` more zero octets: the product with x^(8 * zeros), modulo the polynomial.
fn advance(state: u32, zeros: usize) -> u32 {
    POWERS
        .iter()
        .enumerate()
        .filter(|(k, _)| zeros >> k & 1 == 1)
        .fold(state, |state, (_, power)| multiply(state, *power))
}

/// Returns the product of two polynomials over GF(2) with reversed bits, modulo the CRC's polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { (b >> 1) ^ POLY } else { b >> 1 };
        bit >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `TABLES[k][b]` is the CRC of the octet `b` followed by `k` zero octets.
    static TABLES: [[u32; 256]; 8] = tables();

    const fn tables() -> [[u32; 256]; 8] {
        let mut t = [[0; 256]; 8];
        let mut n = 0;
        while n < 256 {
            let mut crc = n as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLY } else { crc >> 1 };
                bit += 1;
            }
            t[0][n] = crc;
            n += 1;
        }
        let mut k = 1;
        while k < 8 {
            let mut n = 0;
            while n < 256 {
                let before = t[k - 1][n];
                t[k][n] = (before >> 8) ^ t[0][(before & 0xff) as usize];
                n += 1;
            }
            k += 1;
        }
        t
    }

    /// A second implementation of [`Crc32c::push`], by slicing by eight, without the processor's instruction.
    fn push_by_tables(state: u32, bytes: &[u8]) -> u32 {
        let mut crc = state;
        let mut blocks = bytes.chunks_exact(8);
        for b in &mut blocks {
            let low = crc ^ u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let [l0, l1, l2, l3] = low.to_le_bytes();
            crc = TABLES[7][usize::from(l0)]
                ^ TABLES[6][usize::from(l1)]
                ^ TABLES[5][usize::from(l2)]
                ^ TABLES[4][usize::from(l3)]
                ^ TABLES[3][usize::from(b[4])]
                ^ TABLES[2][usize::from(b[5])]
                ^ TABLES[1][usize::from(b[6])]
                ^ TABLES[0][usize::from(b[7])];
        }
        for &b in blocks.remainder() {
            crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ b)];
        }
        crc
    }

    proptest! {
        #[test]
        fn the_crate_and_the_tables_agree(state: u32, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut crc = Crc32c(state);
            crc.push(&bytes);
            prop_assert_eq!(crc.0, push_by_tables(state, &bytes));
        }
    }

    fn naive(bytes: &[u8]) -> [u8; 4] {
        let mut crc = !0u32;
        for &b in bytes {
            crc ^= u32::from(b);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLY } else { crc >> 1 };
            }
        }
        (!crc).to_le_bytes()
    }

    fn crc(bytes: &[u8]) -> [u8; 4] {
        let mut c = Crc32c::new();
        c.push(bytes);
        c.finish()
    }

    #[test]
    fn check_value_of_the_catalogue() {
        assert_eq!(u32::from_le_bytes(crc(b"123456789")), 0xe306_9283);
        // RFC 3720 appendix B.4: 32 octets of zeros.
        assert_eq!(crc(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    }

    proptest! {
        #[test]
        fn same_as_bit_by_bit_over_any_split(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let cut = cut.min(bytes.len());
            let mut c = Crc32c::new();
            c.push(&bytes[..cut]);
            c.push(&bytes[cut..]);
            prop_assert_eq!(c.finish(), naive(&bytes));
        }

        #[test]
        fn update_is_recomputation(mut bytes in prop::collection::vec(any::<u8>(), 4..300), new: [u8; 4]) {
            let before = crc(&bytes);
            let old = [bytes[0], bytes[1], bytes[2], bytes[3]];
            bytes[..4].copy_from_slice(&new);
            prop_assert_eq!(Crc32c::update(before, old, new, bytes.len() - 4), crc(&bytes));
        }
    }
}
