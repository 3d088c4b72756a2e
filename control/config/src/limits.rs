//! Bounds that the configuration is checked against, and sizes that determine the agent's memory.

use heddle_port::{FillBudget, HEADROOM, Packet};

/// The size of a frame in bytes.
pub const FRAME_SIZE: u32 = 4096;
/// The smallest MTU of a pod: the minimum of IPv6 (RFC 8200 section 5).
pub const MIN_POD_MTU: u16 = 1280;
// The largest packet that an MTU of 16 bits allows fits the frames that a packet may have, with its Ethernet header.
const _: () = assert!(Packet::MAX_FRAMES as u32 * (FRAME_SIZE - HEADROOM) >= u16::MAX as u32 + 14);
/// The limit of the TCP segments that a pod's kernel passes on in one piece (`gso_max_size`): Linux's default, `GSO_LEGACY_MAX_SIZE`.
pub const MAX_SEGMENT: u32 = 65_536;
const _: () = assert!(MAX_SEGMENT <= Packet::MAX_FRAMES as u32 * (FRAME_SIZE - HEADROOM));
/// The default of `maxPods`.
pub(crate) const DEFAULT_MAX_PODS: u16 = 128;
/// The maximum number of workers. Each has one queue of the host port, and these queues have the first port numbers.
pub const MAX_WORKERS: u16 = 64;

/// Returns the number of frames that packets may have in the hand-over lanes of each worker: 512, or its part of 4,096 if there
/// are more than eight workers, but at least 128, the room for seven packets of the largest size. A single worker has no lanes.
#[must_use]
pub const fn handover_frames(workers: u32) -> u32 {
    match workers {
        0 | 1 => 0,
        2..=8 => 512,
        9..=32 => 4096 / workers,
        _ => 128,
    }
}

/// Returns the number of frames kept for packets under way: in the workers' pools, for the fragments that each of `workers`
/// may hold (`held`, but at least 512), and for the packets that they hand over.
#[must_use]
pub const fn working_frames(workers: u32, held: u16) -> u32 {
    let held = held as u32;
    1024 + workers * (handover_frames(workers) + if held > 512 { held } else { 512 })
}

/// Returns the maximum number of queues of the uplink: twice the number of workers, but at least 16 and at most 64.
#[must_use]
pub const fn uplink_queues(workers: u32) -> u16 {
    match workers {
        0..=8 => 16,
        9..=31 => 2 * workers as u16,
        _ => 64,
    }
}

/// Returns the number of frames that `pods` and `workers` need at least: `FillBudget::FLOOR`, 64, for each port (one for each
/// pod, a queue of the host port for each worker, and the uplink's queues), and those for packets under way.
pub(crate) const fn least_frames(pods: u16, workers: u32, held: u16) -> u32 {
    FillBudget::FLOOR * (pods as u32 + workers + uplink_queues(workers) as u32) + working_frames(workers, held)
}

/// Returns the default of `frames`: 16,384, or more if that many workers need it with the other defaults, with 2,048 frames by
/// which fill rings may grow.
pub(crate) const fn default_frames(workers: u32) -> u32 {
    let needed = least_frames(DEFAULT_MAX_PODS, workers, 0) + 2048;
    if needed > 16_384 { needed } else { 16_384 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_of_the_lanes_count_among_the_working_ones() {
        assert_eq!([1, 2, 8, 16, 64].map(handover_frames), [0, 512, 512, 256, 128]);
        assert_eq!(working_frames(1, 512), 1024 + 512);
        assert_eq!(working_frames(2, 512), 1024 + 2 * (512 + 512));
        assert_eq!(working_frames(2, 600), 1024 + 2 * (512 + 600));
    }

    #[test]
    fn the_default_number_of_frames_suffices_for_any_number_of_workers() {
        assert_eq!([1, 2, 3].map(default_frames), [16_384; 3]);
        for workers in 1..=u32::from(MAX_WORKERS) {
            assert!(default_frames(workers) >= least_frames(DEFAULT_MAX_PODS, workers, 512) + 2048);
            assert!(default_frames(workers) <= 1 << 17);
        }
    }
}
