//! The keyed hash of a tuple.
//!
//! NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) over 64-bit words with a secret key. Two different tuples collide in
//! its 128 bits with a probability of at most 2^-64 over the choice of the key, for any packets that an attacker sends. A keyed
//! folded multiplication spreads them over the 64 bits that are used. The hash is not a MAC, so it must not be visible outside.
//!
//! The origin is not hashed. So `find_tuple` needs no second table, and a change of the origin moves no entry.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};

/// The number of words of the secret key.
pub(crate) const SEED_WORDS: usize = 8;

/// The secret key of the hash. It is random for every new table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) [u64; SEED_WORDS]);

impl Seed {
    /// Makes a key from any words. Small words hash as well as random ones, but the key is not secret then.
    pub(crate) fn from_words(words: [u64; SEED_WORDS]) -> Self {
        let all = words.iter().fold(0, |all, &word| scramble(all ^ word));
        Self(std::array::from_fn(|n| scramble(all.wrapping_add(n as u64))))
    }

    /// Makes a random key.
    pub(crate) fn random() -> Self {
        // The standard library's hasher is a pseudo-random function (SipHash) under a key from the system's generator.
        let secret = RandomState::new();
        Self(std::array::from_fn(|n| secret.hash_one(n)))
    }
}

/// Does one step of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(crate) const fn scramble(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Returns an address as two words.
#[inline]
pub(crate) fn ip_words(ip: Ip) -> [u64; 2] {
    let v = u128::from_ne_bytes(ip.octets());
    [v as u64, (v >> 64) as u64]
}

/// Returns the address of two words: the inverse of [`ip_words`].
#[inline]
pub(crate) fn ip_from_words(words: [u64; 2]) -> Ip {
    Ip::from_v6((u128::from(words[0]) | u128::from(words[1]) << 64).to_ne_bytes())
}

/// A hash. Its upper half selects the bucket, and its lower half distinguishes the entries in the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hash(u64);

impl Hash {
    #[inline]
    pub(crate) fn of(seed: &Seed, t: &Tuple, proto: Proto) -> Self {
        let k = &seed.0;
        let [s0, s1] = ip_words(t.src);
        let [d0, d1] = ip_words(t.dst);
        let ports = u64::from(t.sport) << 32 | u64::from(t.dport) << 16 | u64::from(proto.0);
        let nh = product(s0.wrapping_add(k[0]), s1.wrapping_add(k[1]))
            .wrapping_add(product(d0.wrapping_add(k[2]), d1.wrapping_add(k[3])))
            .wrapping_add(product(ports.wrapping_add(k[4]), k[5]));
        let mixed = product(nh as u64 ^ k[6], (nh >> 64) as u64 ^ k[7]);
        Self(mixed as u64 ^ (mixed >> 64) as u64)
    }

    /// Returns the hash, mixed once more so that it does not show the bucket.
    pub(crate) const fn mixed(self) -> u64 {
        scramble(self.0)
    }

    /// Returns the bucket, a number below `buckets`.
    #[inline]
    pub(crate) const fn bucket(self, buckets: u32) -> u32 {
        (((self.0 >> 32) * buckets as u64) >> 32) as u32
    }

    /// Returns the tag. It is never 0, which is the tag of a free place.
    #[inline]
    pub(crate) const fn tag(self) -> u32 {
        self.0 as u32 | 1
    }
}

#[inline]
const fn product(a: u64, b: u64) -> u128 {
    a as u128 * b as u128
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::testing::{nth, through_service, v6};

    #[test]
    fn any_seed_spreads_the_tuples_over_the_buckets() {
        const TUPLES: u32 = 40_000;
        let seeds = [[0; SEED_WORDS], [1; SEED_WORDS], [u64::MAX; SEED_WORDS]]
            .into_iter()
            .chain((0..SEED_WORDS).map(|at| std::array::from_fn(|n| u64::from(n == at))))
            .chain([[1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]]);
        for words in seeds {
            let seed = Seed::from_words(words);
            let mut lengths = vec![0u32; TUPLES as usize / 4];
            let mut tags = std::collections::HashSet::new();
            for n in 0..TUPLES {
                let tuple = if n.is_multiple_of(2) {
                    nth(n).0.key.tuple
                } else {
                    through_service(v6(n), v6(2), v6(3), 40_000, Proto::TCP).1.key.tuple
                };
                let hash = Hash::of(&seed, &tuple, Proto::TCP);
                let bucket = hash.bucket(lengths.len() as u32);
                lengths[bucket as usize] += 1;
                tags.insert(hash.tag());
            }
            // Four are expected in each bucket. More than twenty in one of ten thousand have a probability of 1e-5.
            let longest = lengths.iter().max().unwrap();
            assert!(*longest <= 20, "seed {words:?}: a chain of {longest}");
            assert!(tags.len() > TUPLES as usize - 20, "seed {words:?}: equal tags");
            assert!(lengths.iter().filter(|l| **l == 0).count() < lengths.len() / 30);
        }
    }
}
