//! The configuration of a flow table.

use crate::layout::{Geometry, MAX_CAPACITY, MIN_CAPACITY};
use crate::state::Timeouts;

/// The configuration of a flow table.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections that fit, both directions included: 240 B each, fixed for the life of the table.
    pub capacity: u32,
    /// Connections that one pod may have opened at a time; `None`: no limit. The host and the uplink have none.
    pub quota: Option<u32>,
    /// Clients of Services with session affinity that are remembered: 64 B each.
    pub affinities: u32,
    /// When silent connections expire.
    pub timeouts: Timeouts,
    /// Allows pages of 2 MiB for the table where the kernel gives some: they cost lookups in a large table fewer
    /// address translations.
    pub huge_pages: bool,
    /// The input of the hash's key; `None`: the key is random. For replay and tests, which have to be repeatable: any
    /// words will do, zeroes too.
    pub seed: Option<[u64; 8]>,
}

impl Config {
    /// The least capacity.
    pub const MIN_CAPACITY: u32 = MIN_CAPACITY;
    /// The greatest capacity: what a record number has bits for.
    pub const MAX_CAPACITY: u32 = MAX_CAPACITY;

    /// Returns the sizes of the table.
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::new(self.capacity, self.affinities)
    }

    /// Bytes of the table's file: whole pages of 2 MiB.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.geometry().file_bytes() as u64
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 262_144,
            quota: Some(65_536),
            // Under loom every word is an object of the model.
            affinities: if cfg!(loom) { 0 } else { 65_536 },
            timeouts: Timeouts::default(),
            huge_pages: true,
            seed: None,
        }
    }
}
