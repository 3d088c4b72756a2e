//! Counts of a table: its connections, the refused ones, and the connections that each endpoint has opened.

use heddle_ids::EndpointId;

use crate::layout::Geometry;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Counts of a table at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// The capacity in connections.
    pub capacity: u32,
    /// Connections in the table, including expired ones that were not removed yet.
    pub used: u32,
    /// Connections inserted since the table was made or taken over.
    pub inserted: u64,
    /// Connections that were removed because they had expired.
    pub expired: u64,
    /// New connections refused because the table was full.
    pub refused_full: u64,
    /// New connections refused because their endpoint's quota was used up.
    pub refused_quota: u64,
    /// The table's memory in bytes.
    pub bytes: u64,
}

/// The number of endpoints that are counted: all ids, but fewer under checkers, for which every atomic costs time.
const ENDPOINTS: usize = if cfg!(loom) {
    4
} else if cfg!(miri) {
    16
} else {
    1 << 16
};

/// Counts that the table keeps beside its memory.
pub(crate) struct Counts {
    /// Connections that a takeover found.
    kept: AtomicU64,
    /// Removed connections. The connections in use are computed from these counts.
    gone: AtomicU64,
    opened: Box<[AtomicU32]>,
    quota: Option<u32>,
    pub(crate) inserted: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) refused_full: AtomicU64,
    pub(crate) refused_quota: AtomicU64,
}

impl Counts {
    pub(crate) fn new(quota: Option<u32>) -> Self {
        Self {
            kept: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            opened: (0..ENDPOINTS).map(|_| AtomicU32::new(0)).collect(),
            quota,
            inserted: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            refused_full: AtomicU64::new(0),
            refused_quota: AtomicU64::new(0),
        }
    }

    fn opened(&self, endpoint: EndpointId) -> &AtomicU32 {
        &self.opened[usize::from(endpoint.0) % ENDPOINTS]
    }

    /// Counts a connection for its endpoint. Returns false and does not count it if the endpoint's quota is used up.
    pub(crate) fn charge(&self, endpoint: EndpointId) -> bool {
        let before = self.opened(endpoint).fetch_add(1, Ordering::Relaxed);
        if endpoint.is_pod() && self.quota.is_some_and(|quota| before >= quota) {
            self.opened(endpoint).fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Undoes a [`Self::charge`] of a connection that was not inserted.
    pub(crate) fn withdraw(&self, endpoint: EndpointId) {
        self.opened(endpoint).fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that was taken over, even above the quota.
    pub(crate) fn charge_over_quota(&self, endpoint: EndpointId) {
        self.opened(endpoint).fetch_add(1, Ordering::Relaxed);
        self.kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn discharge(&self, endpoint: EndpointId) {
        self.opened(endpoint).fetch_sub(1, Ordering::Relaxed);
        self.gone.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn recharge(&self, from: EndpointId, to: EndpointId) {
        if from != to {
            self.opened(to).fetch_add(1, Ordering::Relaxed);
            self.opened(from).fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn opened_by(&self, endpoint: EndpointId) -> u32 {
        self.opened(endpoint).load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self, geometry: &Geometry) -> Stats {
        let gone = self.gone.load(Ordering::Relaxed);
        let inserted = self.inserted.load(Ordering::Relaxed);
        let used = (self.kept.load(Ordering::Relaxed) + inserted).saturating_sub(gone);
        Stats {
            capacity: geometry.capacity,
            used: u32::try_from(used).unwrap_or(u32::MAX).min(geometry.capacity),
            inserted,
            expired: self.expired.load(Ordering::Relaxed),
            refused_full: self.refused_full.load(Ordering::Relaxed),
            refused_quota: self.refused_quota.load(Ordering::Relaxed),
            bytes: geometry.lines() as u64 * 64,
        }
    }
}
