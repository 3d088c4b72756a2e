//! Maglev tables: which backend a connection's hash leads to.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4. A backend's
//! permutation comes from its address and port alone, by a hash that never changes (SipHash-2-4 with a constant key),
//! and backends are taken in canonical order: every node that sees the same backends builds the same table.
//! The table has a prime size that grows in steps of four with the number of backends, so one that comes or goes
//! moves its own share and little else, and thousands of small Services stay small.

use std::hash::Hasher;
use std::net::SocketAddr;

use siphasher::sip::SipHasher24;

/// Table sizes: the greatest primes below 2^8, 2^10, ... 2^18.
const SIZES: [u32; 6] = [251, 1_021, 4_093, 16_381, 65_521, 262_139];
/// Slots that each backend has at least, below the last step.
const SLOTS_EACH: usize = 60;

/// A lookup table from hash to the place of a backend in its list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maglev {
    slots: Box<[u16]>,
}

impl Maglev {
    /// Backends that a table can name.
    pub const MAX_BACKENDS: usize = 1 << 16;

    /// The size of the table for that many backends; none is needed for fewer than two.
    #[must_use]
    pub fn size_for(backends: usize) -> usize {
        if backends < 2 {
            return 0;
        }
        let [.., last] = SIZES;
        SIZES
            .into_iter()
            .find(|s| *s as usize >= backends * SLOTS_EACH)
            .unwrap_or(last) as usize
    }

    /// The table for backends in canonical order, of which the first [`MAX_BACKENDS`](Self::MAX_BACKENDS) are used.
    #[must_use]
    pub fn new(backends: &[SocketAddr]) -> Self {
        let backends = &backends[..backends.len().min(Self::MAX_BACKENDS)];
        let size = Self::size_for(backends.len());
        if size == 0 {
            return Self { slots: Box::new([]) };
        }
        let mut walks: Vec<Walk> = backends.iter().map(|b| Walk::new(b, size)).collect();
        let mut slots: Vec<Option<u16>> = vec![None; size];
        let mut free = size;
        'fill: loop {
            for (backend, walk) in (0u16..=u16::MAX).zip(&mut walks) {
                while slots[walk.at].is_some() {
                    walk.step(size);
                }
                slots[walk.at] = Some(backend);
                free -= 1;
                if free == 0 {
                    break 'fill;
                }
                walk.step(size);
            }
        }
        Self {
            slots: slots.into_iter().map(Option::unwrap_or_default).collect(),
        }
    }

    /// The place of the backend that `hash` leads to. All 64 bits must be well mixed; the high ones count most.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> usize {
        let slot = (u128::from(hash) * self.slots.len() as u128) >> 64;
        self.slots.get(slot as usize).copied().map_or(0, usize::from)
    }

    /// Slots in the table.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.slots.len()
    }
}

/// A backend's permutation of the slots. The size is prime, so every skip visits them all.
struct Walk {
    at: usize,
    skip: usize,
}

impl Walk {
    fn new(backend: &SocketAddr, size: usize) -> Self {
        let hash = |key: u64| {
            let mut h = SipHasher24::new_with_keys(key, 0x6d61_676c_6576);
            match backend.ip() {
                std::net::IpAddr::V4(a) => h.write(&a.octets()),
                std::net::IpAddr::V6(a) => h.write(&a.octets()),
            }
            h.write(&backend.port().to_be_bytes());
            h.finish()
        };
        Self {
            at: (hash(1) % size as u64) as usize,
            skip: (hash(2) % (size as u64 - 1) + 1) as usize,
        }
    }

    const fn step(&mut self, size: usize) {
        self.at += self.skip;
        if self.at >= size {
            self.at -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn some_backends(least: usize) -> impl Strategy<Value = Vec<SocketAddr>> {
        prop::collection::btree_set((any::<u32>(), 1_u16..), least..200).prop_map(|set| {
            set.into_iter()
                .map(|(ip, port)| (Ipv4Addr::from(ip), port).into())
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever order they hear of backends in, nodes that sort them agree on every connection.
        #[test]
        fn all_nodes_agree(backends in some_backends(1), seed: u64) {
            let mut heard = backends.clone();
            heard.rotate_left((seed % backends.len() as u64) as usize);
            let sorted: Vec<SocketAddr> = heard.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
            let (one, other) = (Maglev::new(&backends), Maglev::new(&sorted));
            for hash in hashes(500) {
                prop_assert_eq!(backends[one.pick(hash)], sorted[other.pick(hash)]);
            }
        }
    }

    /// A removed backend moves its own share and, on the average over Services, at most 5 % of the others' slots where
    /// the size stays. A single Service may see more: few backends whose walks happen to run in step.
    #[test]
    fn a_removed_backend_moves_its_share_and_few_others() {
        for n in [3u32, 4, 6, 17, 60] {
            let (mut all, mut moved) = (0, 0);
            for service in 0..100u32 {
                let before: Vec<SocketAddr> = (0..n)
                    .map(|i| (Ipv4Addr::from(0x0af4_0000 + service * n + i), 8080).into())
                    .collect();
                let (gone, after) = (before[0], &before[1..]);
                let (old, new) = (Maglev::new(&before), Maglev::new(after));
                assert_eq!(old.size(), new.size());
                for (a, b) in old.slots.iter().zip(&new.slots) {
                    let was = before[usize::from(*a)];
                    if was != gone {
                        all += 1;
                        moved += usize::from(was != after[usize::from(*b)]);
                    }
                }
            }
            assert!(moved * 20 <= all, "{n} backends: {moved} of {all} slots moved");
        }
    }

    fn backends(n: u16) -> Vec<SocketAddr> {
        (0..n)
            .map(|i| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 8080)))
            .collect()
    }

    /// Well-mixed hashes in a fixed order.
    fn hashes(n: u64) -> impl Iterator<Item = u64> {
        (0..n).map(|i| {
            let mut h = SipHasher24::new_with_keys(9, 9);
            h.write_u64(i);
            h.finish()
        })
    }

    #[test]
    fn each_backend_gets_its_share() {
        for n in [2u16, 3, 4, 5, 16, 17, 100, 1000] {
            let table = Maglev::new(&backends(n));
            let mut share = vec![0usize; usize::from(n)];
            for slot in &table.slots {
                share[usize::from(*slot)] += 1;
            }
            let (least, most) = (share.iter().min().unwrap(), share.iter().max().unwrap());
            assert!(
                most - least <= 1,
                "{n} backends: {least} to {most} slots of {}",
                table.size()
            );
        }
    }

    #[test]
    fn the_table_is_the_same_on_every_node() {
        // A constant on purpose: another table after an upgrade would make nodes of two versions choose differently.
        let table = Maglev::new(&backends(4));
        let picks: Vec<_> = hashes(16).map(|h| table.pick(h)).collect();
        assert_eq!(picks, [3, 0, 3, 3, 3, 2, 3, 1, 3, 0, 2, 2, 0, 1, 2, 3]);
    }

    #[test]
    fn a_removed_backend_moves_few_of_the_others() {
        for n in [3u16, 10, 50] {
            let before = backends(n);
            let mut after = before.clone();
            let gone = after.remove(1);
            let (old, new) = (Maglev::new(&before), Maglev::new(&after));
            if old.size() != new.size() {
                continue;
            }
            let moved = hashes(20_000)
                .filter(|h| before[old.pick(*h)] != gone && before[old.pick(*h)] != after[new.pick(*h)])
                .count();
            assert!(
                moved <= 20_000 / 20,
                "{n} backends: {moved} of 20000 moved without need"
            );
        }
    }

    #[test]
    fn sizes_go_in_coarse_steps() {
        assert_eq!(
            [0, 1, 2, 4, 5, 17, 18, 69, 2000, 60_000].map(Maglev::size_for),
            [0, 0, 251, 251, 1021, 1021, 4093, 16_381, 262_139, 262_139]
        );
    }
}
