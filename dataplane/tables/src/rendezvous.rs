//! Rendezvous hashing: the choice between few backends by a connection's hash.
//!
//! Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996). Each backend gets a weight from the connection's
//! hash and its own address and port, and the greatest weight wins. So the removal of a backend moves only its own connections,
//! and a new backend moves only its share. Shares are as even as the hashes. There is no table that would be built, stored, or
//! missing in the cache. Weights have no seed, so every node with the same backends makes the same choice.
//!
//! The cost is a nanosecond for each backend. Above [`MOST`] backends a [`Maglev`](crate::Maglev) table is used.

use crate::Backend;

/// The most backends for rendezvous hashing.
pub const MOST: usize = 64;

/// Returns the backend with the greatest weight; `None` if there are no backends. All 64 bits of `hash` must be well mixed.
#[inline]
#[must_use]
pub fn pick(hash: u64, backends: &[Backend]) -> Option<&Backend> {
    let (first, others) = backends.split_first()?;
    let mut best = (weight(hash, first), first);
    for backend in others {
        let weight = weight(hash, backend);
        // At equal weights the first in canonical order wins.
        if weight > best.0 {
            best = (weight, backend);
        }
    }
    Some(best.1)
}

/// Returns the weight of a backend for a connection. The constants are digits of pi.
#[inline]
fn weight(hash: u64, backend: &Backend) -> u64 {
    let octets = u128::from_be_bytes(backend.ip.octets());
    let (high, low) = ((octets >> 64) as u64, octets as u64);
    let name = fold(
        low ^ 0xa409_3822_299f_31d0,
        high ^ u64::from(backend.port) << 40 ^ 0x082e_fa98_ec4e_6c89,
    );
    fold(fold(hash ^ name, 0x243f_6a88_85a3_08d3) ^ name, 0x1319_8a2e_0370_7345)
}

/// Returns the XOR of both halves of the product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ (wide >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use heddle_wire::Ip;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    use super::*;

    fn v4(addr: u32, port: u16) -> Backend {
        let ip = Ip::from_v4(addr.to_be_bytes());
        Backend { ip, port }
    }

    /// Backends with typical addresses: consecutive ones, or one for each node.
    fn neighbours(n: u32, first: u32, step: u32) -> Vec<Backend> {
        (0..n).map(|i| v4(first.wrapping_add(i * step), 8080)).collect()
    }

    /// Well-mixed hashes in a fixed order.
    fn hashes(n: u64) -> impl Iterator<Item = u64> {
        (0..n).map(|i| {
            let mut h = SipHasher24::new_with_keys(9, 9);
            h.write_u64(i);
            h.finish()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// In every Service, the removal of any backend moves no other backend's connections.
        #[test]
        fn a_removed_backend_moves_its_own_connections_only(
            all in prop::collection::btree_set((any::<u32>(), 1_u16..), 2..MOST),
            seed: u64,
        ) {
            let all: Vec<Backend> = all.into_iter().map(|(addr, port)| v4(addr, port)).collect();
            for gone in &all {
                let rest: Vec<Backend> = all.iter().copied().filter(|b| b != gone).collect();
                for hash in hashes(200).map(|h| h ^ seed) {
                    let (was, is) = (pick(hash, &all).unwrap(), pick(hash, &rest).unwrap());
                    prop_assert!(was == gone || was == is, "{was:?} became {is:?} when {gone:?} went");
                }
            }
        }
    }

    #[test]
    fn each_backend_gets_its_share_of_neighbouring_addresses_too() {
        const CONNECTIONS: u32 = 100_000;
        let mut services: Vec<Vec<Backend>> = Vec::new();
        for n in [2, 3, 4, 5, 16, MOST as u32] {
            services.push(neighbours(n, 0x0af4_0102, 1));
            services.push(neighbours(n, 0x0af4_0005, 256));
            services.push((0..n).map(|port| v4(0x0a00_0001, 8000 + port as u16)).collect());
            let v6 = |i: u32| Ip::from_v6((0xfd00_u128 << 112 | u128::from(i) << 64 | 9).to_be_bytes());
            services.push((0..n).map(|i| Backend { ip: v6(i), port: 80 }).collect());
        }
        for backends in services {
            let mut count = vec![0_u32; backends.len()];
            for hash in hashes(CONNECTIONS.into()) {
                let chosen = pick(hash, &backends).unwrap();
                count[backends.iter().position(|b| b == chosen).unwrap()] += 1;
            }
            let p = 1.0 / backends.len() as f64;
            let mean = f64::from(CONNECTIONS) * p;
            let sigma = (mean * (1.0 - p)).sqrt();
            for c in &count {
                let off = (f64::from(*c) - mean).abs() / sigma;
                assert!(off < 4.5, "{off:.1} sigma off {mean}: {count:?} of {backends:?}");
            }
        }
    }

    #[test]
    fn the_choice_is_the_same_on_every_node_and_in_every_release() {
        // A constant: with other weights after an upgrade, nodes of two versions would choose differently.
        let backends = neighbours(4, 0x0a00_0001, 1);
        let picks: Vec<u8> = hashes(16)
            .map(|h| pick(h, &backends).unwrap().ip.v4_octets()[3])
            .collect();
        assert_eq!(picks, [1, 4, 3, 4, 3, 1, 1, 1, 2, 4, 1, 1, 2, 1, 1, 3]);
        assert_eq!(pick(5, &[]), None);
    }
}
