//! Reassembles fragments, naively.

/// Returns the whole packet that fragments in any order make, with the Ethernet and IP headers of the first one in the list.
/// Returns `None` if a fragment is missing, two overlap, or there are several ends. IPv6 fragments may have a fragment header
/// and no other extension header.
#[must_use]
pub fn reassemble(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let v4 = fragments.first()?.get(12..14)? == [8, 0];
    let mut parts: Vec<(usize, bool, &[u8])> = fragments.iter().map(|f| part(f, v4)).collect::<Option<_>>()?;
    parts.sort_unstable();
    let mut data = Vec::new();
    for (n, (offset, more, part)) in parts.iter().enumerate() {
        if *offset != data.len() || *more != (n + 1 < parts.len()) {
            return None;
        }
        data.extend_from_slice(part);
    }
    let first = &fragments[0];
    let header = if v4 { 14 + usize::from(first[14] & 0xf) * 4 } else { 54 };
    let mut whole = first.get(..header)?.to_vec();
    if v4 {
        let total = u16::try_from(header - 14 + data.len()).ok()?;
        whole[16..18].copy_from_slice(&total.to_be_bytes());
        whole[20..22].fill(0);
        whole[24..26].fill(0);
        let sum = etherparse::Ipv4HeaderSlice::from_slice(&whole[14..]).ok()?;
        let sum = sum.to_header().calc_header_checksum();
        whole[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        whole[18..20].copy_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
        whole[20] = first[54];
    }
    whole.extend(data);
    Some(whole)
}

/// Returns the offset of a fragment's data, its flag for more fragments, and the data.
fn part(f: &[u8], v4: bool) -> Option<(usize, bool, &[u8])> {
    if v4 {
        let word = u16::from_be_bytes([*f.get(20)?, *f.get(21)?]);
        let header = 14 + usize::from(f[14] & 0xf) * 4;
        return Some((usize::from(word & 0x1fff) * 8, word & 0x2000 != 0, f.get(header..)?));
    }
    let word = u16::from_be_bytes([*f.get(56)?, *f.get(57)?]);
    (f[20] == 44).then_some((usize::from(word & !7), word & 1 != 0, f.get(62..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Proto;
    use crate::testing::{Packet, assert_valid, ip, mac};

    #[test]
    fn only_all_of_a_datagram_makes_it() {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let base = Packet::new(mac(1), mac(2), ip(src), ip(dst));
            let whole = base.clone().dont_fragment(false).udp(1, 2, &[7; 92]);
            let data = &whole[whole.len() - 100..];
            let cut = |at: usize, len: usize, more| {
                base.clone()
                    .fragment(at as u16, more)
                    .raw(Proto::UDP, &data[at..at + len])
            };
            let parts = [cut(0, 48, true), cut(48, 32, true), cut(80, 20, false)];
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
                let made = reassemble(&order.map(|n: usize| parts[n].clone())).unwrap();
                assert_valid(&made);
                assert_eq!(made[made.len() - 100..], *data);
            }
            assert_eq!(reassemble(&parts[..2]), None);
            assert_eq!(reassemble(&parts[1..]), None);
            assert_eq!(
                reassemble(&[parts[0].clone(), cut(40, 40, true), parts[2].clone()]),
                None
            );
            assert_eq!(reassemble(&[parts[0].clone(), parts[0].clone()]), None);
        }
        assert_eq!(reassemble(&[]), None);
        assert_eq!(reassemble(&[vec![0; 10]]), None);
    }
}
