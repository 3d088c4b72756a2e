//! The invariants for any sequence of packets. The fuzz target, the replay of its corpus and a property test assert them.
//!
//! [`check_sequence`] takes any bytes as a sequence of steps (`steps`) of a small node in memory (`cluster`): workers, ports, a
//! flow table, hand-built tables. It panics when an invariant is broken; the packet path never calls it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "an invariant that is broken has to stop the fuzzer"
)]

pub(crate) mod cluster;
mod node;
mod others;
pub(crate) mod parties;
mod steps;

use heddle_wire::{MacAddr, rewrite};

use crate::counters::PortTotals;
use node::CheckedNode;
use others::OTHERS;
use parties::{LINKS, UPLINK};

pub use steps::op;

/// Runs the steps in `data`. Asserts that every frame is accounted for, that every packet ends once, and that etherparse accepts
/// each packet that left and each datagram whose fragments all left. Returns the counts summed over all ports.
///
/// # Panics
///
/// If an invariant is broken.
pub fn check_sequence(data: &[u8]) -> PortTotals {
    let mut steps = steps::Decoder::new(data);
    let mut node = CheckedNode::new(1 + steps.octet() % 2);
    // Long inputs are no better than many short ones.
    for _ in 0..400 {
        if steps.is_empty() {
            break;
        }
        steps.play(&mut node);
    }
    node.turn();
    node.finish()
}

/// Puts `data` into the uplink as a frame, as a frame with the right Ethernet addresses, and as the inner frame of each tunnel.
/// Asserts the same as [`check_sequence`].
///
/// # Panics
///
/// If an invariant is broken.
pub fn check_uplink(data: &[u8]) -> PortTotals {
    let mut node = CheckedNode::new(1);
    let mut addressed = data.to_vec();
    rewrite::set_macs(&mut addressed, UPLINK.mac, others::ROUTER);
    let mut routed = data.to_vec();
    rewrite::set_macs(&mut routed, MacAddr::GATEWAY, MacAddr::GATEWAY);
    let uplink = LINKS.len() - 1;
    for frame in [data, &addressed] {
        node.push(uplink, frame);
        node.turn();
    }
    for other in 0..OTHERS.len() {
        for inner in [data, &routed] {
            node.push(uplink, &others::encapsulate(other, inner));
            node.turn();
        }
    }
    node.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::DropReason;

    #[test]
    fn the_corpus_of_the_fuzz_target_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/sequence");
        let (mut replayed, mut seen) = (0, PortTotals::default());
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let file = entry.unwrap().path();
            println!("{}", file.display());
            seen += &check_sequence(&fs::read(&file).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 30, "{replayed} inputs in {}", folder.display());
        // The corpus gets far: packets end in many different ways.
        assert!(seen.forwarded > 1000 && seen.fragments > 50, "{seen:?}");
        assert!(seen.answers().count() >= 5, "{:?}", seen.answers().collect::<Vec<_>>());
        let reasons: Vec<_> = seen.drops().map(|(reason, _)| reason).collect();
        for reason in [
            DropReason::FragmentOverlap,
            DropReason::FragmentFirstRefused,
            DropReason::FragmentFirstMissing,
            DropReason::FragmentNoRoom,
            DropReason::PolicyDeniedIngress,
            DropReason::TxRingFull,
            DropReason::TunnelFlags,
            DropReason::TunnelNetwork,
            DropReason::SpoofedSource,
            DropReason::NoRoute,
            DropReason::NodeUnreachable,
        ] {
            assert!(reasons.contains(&reason), "{reason} is not among {reasons:?}");
        }
    }

    #[test]
    fn the_corpus_of_the_tunnel_s_fuzz_target_holds() {
        let (mut replayed, mut seen) = (0, PortTotals::default());
        for name in ["tunnel", "parse"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../fuzz/corpus")
                .join(name);
            for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
                let file = entry.unwrap().path();
                println!("{}", file.display());
                seen += &check_uplink(&fs::read(&file).unwrap());
                replayed += 1;
            }
        }
        assert!(replayed >= 60, "{replayed} inputs");
        let reasons: Vec<_> = seen.drops().map(|(reason, _)| reason).collect();
        for reason in [
            DropReason::TunnelTruncated,
            DropReason::TunnelFlags,
            DropReason::TunnelNetwork,
            DropReason::TunnelUnknownSender,
            DropReason::TunnelCongested,
            DropReason::SpoofedSource,
        ] {
            assert!(reasons.contains(&reason), "{reason} is not among {reasons:?}");
        }
        assert!(seen.forwarded > 10, "{seen:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_at_the_uplink(data in prop::collection::vec(any::<u8>(), 0..200)) {
            check_uplink(&data);
        }

        #[test]
        fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..600)) {
            check_sequence(&data);
        }

        /// Small octets reach further, because steps, parties and offsets are small numbers. The high bit selects IPv6 and senders
        /// at the uplink.
        #[test]
        fn any_small_bytes(data in prop::collection::vec(prop_oneof![5 => 0_u8..24, 1 => 0x80_u8..0x90], 0..900)) {
            check_sequence(&data);
        }
    }
}
