//! The keyed hash of a tuple.
//!
//! NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) over 64-bit words with a secret key: two different tuples
//! collide in its 128 bits with a probability of at most 2^-64 over the choice of the key, whatever an attacker sends.
//! A keyed folded multiplication spreads that over the 64 bits that are used. The hash is not a MAC: it must not be shown
//! to anybody outside.
//!
//! The origin is not hashed: `find_tuple` needs no second table for it, and moving a key to another origin moves no entry.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};

/// Words of secret key.
pub(crate) const SEED_WORDS: usize = 8;

/// The secret key of the hash; random for every new table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) [u64; SEED_WORDS]);

impl Seed {
    /// A key that nobody knows.
    pub(crate) fn random() -> Self {
        // The standard library's hasher is a pseudo-random function (SipHash) under a key from the system's generator.
        let secret = RandomState::new();
        Self(std::array::from_fn(|n| secret.hash_one(n)))
    }
}

/// An address as two words.
#[inline]
pub(crate) fn ip_words(ip: Ip) -> [u64; 2] {
    let v = u128::from_ne_bytes(ip.octets());
    [v as u64, (v >> 64) as u64]
}

/// The inverse of [`ip_words`].
#[inline]
pub(crate) fn ip_from_words(words: [u64; 2]) -> Ip {
    Ip::from_v6((u128::from(words[0]) | u128::from(words[1]) << 64).to_ne_bytes())
}

/// The upper half chooses the bucket, the lower one tells apart the entries in it.
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

    /// A number below `buckets`.
    #[inline]
    pub(crate) const fn bucket(self, buckets: u32) -> u32 {
        (((self.0 >> 32) * buckets as u64) >> 32) as u32
    }

    #[inline]
    pub(crate) const fn tag(self) -> u32 {
        self.0 as u32
    }
}

#[inline]
const fn product(a: u64, b: u64) -> u128 {
    a as u128 * b as u128
}
