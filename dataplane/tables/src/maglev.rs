//! Maglev tables: the choice between many backends by a connection's hash.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4. A backend's permutation
//! depends on its address and port alone, by a constant hash (SipHash-2-4 with a constant key), and backends are in canonical
//! order. (`Backends` leaves the ports out where it can, so that the ports of a Service share a table.) So every node with the same backends builds the same table. The table has a prime size that grows in steps of four with
//! the number of backends.
//!
//! It is used for more than [`rendezvous::MOST`](crate::rendezvous::MOST) backends. Among few backends,
//! some permutations visit slots in nearly the same order by chance. The removal of such a backend moved up to 41 % of the other
//! backends' connections (`bench/RESULTS.md`, choice of backends). Among many backends this effect is small.

use std::hash::Hasher;
use std::net::SocketAddr;

use siphasher::sip::SipHasher24;

/// The table sizes: the greatest primes below 2^14, 2^16, 2^18 and 2^20.
const SIZES: [u32; 4] = [16_381, 65_521, 262_139, 1_048_573];
/// The least number of slots for each backend, below the largest size: shares differ by at most 1 %.
const SLOTS_EACH: usize = 100;

/// A lookup table from a hash to the index of a backend in its list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maglev {
    slots: Slots,
}

/// The backend of each slot.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Slots {
    /// For up to 256 backends. It takes half of the memory, and large clusters have many such tables.
    Narrow(Box<[u8]>),
    Wide(Box<[u16]>),
}

impl Maglev {
    /// The most backends of a table.
    pub const MAX_BACKENDS: usize = 1 << 16;

    /// Returns the size of the table for that many backends.
    #[must_use]
    pub fn size_for(backends: usize) -> usize {
        let [.., last] = SIZES;
        SIZES
            .into_iter()
            .find(|s| *s as usize >= backends * SLOTS_EACH)
            .unwrap_or(last) as usize
    }

    /// Returns the table for backends in canonical order. It uses the first [`MAX_BACKENDS`](Self::MAX_BACKENDS) of them.
    #[must_use]
    pub fn new(backends: &[SocketAddr]) -> Self {
        let backends = &backends[..backends.len().min(Self::MAX_BACKENDS)];
        if backends.is_empty() {
            return Self {
                slots: Slots::Narrow(Box::new([])),
            };
        }
        let size = Self::size_for(backends.len());
        let mut walks: Vec<Walk> = backends.iter().map(|b| Walk::new(b, size)).collect();
        // Most steps find a slot that is taken. One bit a slot keeps these look-ups in the first-level cache, which the slots
        // themselves do not fit into.
        let mut taken = vec![0u64; size.div_ceil(64)];
        let mut slots = vec![0u16; size].into_boxed_slice();
        let mut free = size;
        'fill: loop {
            for (backend, walk) in (0u16..=u16::MAX).zip(&mut walks) {
                while taken[walk.at / 64] >> (walk.at % 64) & 1 != 0 {
                    walk.step(size);
                }
                taken[walk.at / 64] |= 1 << (walk.at % 64);
                slots[walk.at] = backend;
                free -= 1;
                if free == 0 {
                    break 'fill;
                }
                walk.step(size);
            }
        }
        let narrow = backends.len() <= 1 << u8::BITS;
        Self {
            slots: match narrow {
                true => Slots::Narrow(slots.iter().map(|backend| *backend as u8).collect()),
                false => Slots::Wide(slots),
            },
        }
    }

    /// Returns the index of the backend for `hash`. All 64 bits must be well mixed; the high ones have the most effect.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> usize {
        let slot = ((u128::from(hash) * self.size() as u128) >> 64) as usize;
        match &self.slots {
            Slots::Narrow(slots) => slots.get(slot).copied().map_or(0, usize::from),
            Slots::Wide(slots) => slots.get(slot).copied().map_or(0, usize::from),
        }
    }

    /// Returns the number of slots.
    #[must_use]
    pub const fn size(&self) -> usize {
        match &self.slots {
            Slots::Narrow(slots) => slots.len(),
            Slots::Wide(slots) => slots.len(),
        }
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

    impl Maglev {
        fn to_vec(&self) -> Vec<u16> {
            match &self.slots {
                Slots::Narrow(slots) => slots.iter().copied().map(u16::from).collect(),
                Slots::Wide(slots) => slots.to_vec(),
            }
        }
    }

    fn some_backends(least: usize) -> impl Strategy<Value = Vec<SocketAddr>> {
        prop::collection::btree_set((any::<u32>(), 1_u16..), least..200).prop_map(|set| {
            set.into_iter()
                .map(|(ip, port)| (Ipv4Addr::from(ip), port).into())
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Nodes that learn of the backends in different orders choose the same backend for every connection.
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

    /// In each Service, the removal of any backend moves its own share and at most 5 % of the others' connections.
    #[test]
    fn a_removed_backend_moves_its_share_and_few_others() {
        let service = |n: u32, nth: u32| -> Vec<SocketAddr> {
            let addr = |i| Ipv4Addr::from(0x0af4_0000 + nth * 0x9e37 + i);
            (0..n).map(|i| (addr(i), 8080).into()).collect()
        };
        // Each backend of one Service, and one backend of each of many.
        let each = (0..66).map(|gone| (66, 0, gone));
        let many = (0..60).flat_map(|nth| [(66, nth, nth as usize), (100, nth, 7), (163, nth, 9)]);
        for (n, nth, gone) in each.chain(many).chain([(400, 1, 3), (655, 2, 0)]) {
            let before = service(n, nth);
            let mut after = before.clone();
            let gone_addr = after.remove(gone);
            let (old, new) = (Maglev::new(&before), Maglev::new(&after));
            assert_eq!(old.size(), new.size());
            let (mut all, mut moved) = (0, 0);
            for (a, b) in old.to_vec().iter().zip(&new.to_vec()) {
                let was = before[usize::from(*a)];
                if was != gone_addr {
                    all += 1;
                    moved += usize::from(was != after[usize::from(*b)]);
                }
            }
            assert!(
                moved * 20 <= all,
                "{n} backends of service {nth}: {moved} of {all} slots moved"
            );
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
        for n in [65u16, 100, 163, 164, 1000] {
            let table = Maglev::new(&backends(n));
            let mut share = vec![0usize; usize::from(n)];
            for slot in &table.to_vec() {
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
        // A constant: with another table after an upgrade, nodes of two versions would choose differently.
        let table = Maglev::new(&backends(100));
        let picks: Vec<_> = hashes(16).map(|h| table.pick(h)).collect();
        assert_eq!(picks, [10, 52, 43, 88, 27, 93, 62, 10, 46, 69, 74, 80, 20, 11, 65, 66]);
    }

    #[test]
    fn sizes_go_in_coarse_steps() {
        assert_eq!(
            [65, 163, 164, 655, 656, 2621, 2622, 60_000].map(Maglev::size_for),
            [16_381, 16_381, 65_521, 65_521, 262_139, 262_139, 1_048_573, 1_048_573]
        );
    }
}
