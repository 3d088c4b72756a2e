//! Bounds that the configuration is checked against, and sizes that determine the agent's memory.

use heddle_port::{HEADROOM, Packet};

/// The size of a frame in bytes.
pub const FRAME_SIZE: u32 = 4096;
/// The smallest MTU of a pod: the minimum of IPv6 (RFC 8200 section 5).
pub const MIN_POD_MTU: u16 = 1280;
// The largest packet that an MTU of 16 bits allows fits the frames that a packet may have, with its Ethernet header.
const _: () = assert!(Packet::MAX_FRAMES as u32 * (FRAME_SIZE - HEADROOM) >= u16::MAX as u32 + 14);
/// The maximum number of workers. Each worker has one queue of the host port. The first port numbers belong to these
/// queues.
pub const MAX_WORKERS: u16 = 64;

/// Returns the number of frames that are kept for packets under way: 1,024, and for each worker as many as it may hold
/// for fragments (`held`), but at least 512.
#[must_use]
pub const fn working_frames(workers: u32, held: u16) -> u32 {
    let held = held as u32;
    1024 + workers * if held > 512 { held } else { 512 }
}
