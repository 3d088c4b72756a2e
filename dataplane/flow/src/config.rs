//! The configuration of a flow table.

use crate::layout::{Geometry, MAX_CAPACITY, MIN_CAPACITY};
use crate::state::Timeouts;

/// The connections that one payer may have at a time. The node itself has no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quotas {
    /// The most connections that one pod may have opened; `None`: no limit.
    pub per_pod: Option<u32>,
    /// The most connections that the pods of one group (a namespace) may have opened together; `None`: no limit.
    pub per_group: Option<u32>,
    /// The most connections that clients of one /24 or /64 outside of this node may have opened; `None`: no limit.
    pub per_source_prefix: Option<u32>,
    /// The most connections of one payer that are masqueraded to one destination (address, port, protocol), so that nobody
    /// takes all source ports to it; `None`: no limit.
    pub per_masquerade_destination: Option<u32>,
    /// Records that only connections of the node may use, so that its probes reach pods even when other payers have filled the
    /// table. At most an eighth of the table.
    pub node_reserve: u32,
}

/// The configuration of a flow table.
#[derive(Clone, Debug)]
pub struct Config {
    /// The most connections in the table: 240 B for both directions, fixed for the life of the table.
    pub capacity: u32,
    /// The limits of each payer's connections.
    pub quotas: Quotas,
    /// The most session affinities: 64 B each.
    pub affinities: u32,
    /// The timeouts of idle connections.
    pub timeouts: Timeouts,
    /// Allows pages of 2 MiB for the table if the kernel has some. Lookups in a large table then need fewer address translations.
    pub huge_pages: bool,
    /// The input of the hash's key; `None` means a random key. Replay and tests set it to be repeatable. Any words are valid,
    /// including zeros.
    pub seed: Option<[u64; 8]>,
}

impl Config {
    /// The least capacity.
    pub const MIN_CAPACITY: u32 = MIN_CAPACITY;
    /// The greatest capacity that fits the bits of a record number.
    pub const MAX_CAPACITY: u32 = MAX_CAPACITY;

    /// Returns the sizes of the table.
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::new(self.capacity, self.affinities)
    }

    /// Returns the size of the table's file in bytes: whole pages of 2 MiB.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.geometry().file_bytes() as u64
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 262_144,
            quotas: Quotas {
                per_pod: Some(65_536),
                per_group: Some(131_072),
                per_source_prefix: Some(65_536),
                per_masquerade_destination: None,
                node_reserve: 8_192,
            },
            // Under loom every word is an object of the model.
            affinities: if cfg!(loom) { 0 } else { 65_536 },
            timeouts: Timeouts::default(),
            huge_pages: true,
            seed: None,
        }
    }
}
