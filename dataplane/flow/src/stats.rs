//! Counts of a table: the entries in it, the refusals, and the connections that each payer has.
//!
//! Each connection is charged to one payer ([`Payer`]): the pod that opened it, the source prefix of a client outside of this
//! node, or the node. Each pod has a quota, each group of pods (a namespace) has one, and each source prefix has one. Only the
//! node may use the last records of the table, because a node that reaches no pod can neither probe nor repair anything.

use heddle_ids::EndpointId;

use crate::charge::{Charge, DESTINATIONS, PREFIXES, Payer};
use crate::config::Quotas;
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
    /// New connections refused because a quota was used up: of their pod, its namespace, their source prefix, or of one payer's
    /// source ports to a masqueraded destination.
    pub refused_quota: u64,
    /// Entries that new connections displaced because the table was full: their handshake was not complete.
    pub displaced: u64,
    /// The table's memory in bytes.
    pub bytes: u64,
}

/// The number of endpoints that are counted: all identifiers. Loom and miri get fewer, because every atomic costs them time.
const ENDPOINTS: usize = if cfg!(loom) {
    4
} else if cfg!(miri) {
    16
} else {
    1 << 16
};

/// The number of groups that are counted.
const GROUPS: usize = if cfg!(any(loom, miri)) { 2 } else { 1 << 16 };
/// A group of pods with a quota of its own: a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupId(pub u16);

/// The reason why a connection was not charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Only the reserve is left.
    Reserve,
    /// The quota of the pod, or of its group.
    Quota,
    /// The share of the source prefix.
    Prefix,
    /// The share of the source ports to a masqueraded destination.
    Ports,
}

/// Counts that the table keeps beside its memory.
pub(crate) struct Counts {
    /// Connections that a takeover found.
    kept: AtomicU64,
    /// Removed connections. `kept` plus `inserted` minus `gone` are in use.
    gone: AtomicU64,
    opened: Box<[AtomicU32]>,
    /// The group of each endpoint.
    group_of: Box<[AtomicU32]>,
    /// The connections of each group's pods.
    groups: Box<[AtomicU32]>,
    prefixes: Box<[AtomicU32]>,
    destinations: Box<[AtomicU32]>,
    quotas: Quotas,
    /// With this many connections in use, the other records are for the node alone.
    open_to_all: u32,
    pub(crate) inserted: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) refused_full: AtomicU64,
    pub(crate) refused_quota: AtomicU64,
    pub(crate) displaced: AtomicU64,
}

impl Counts {
    pub(crate) fn new(quotas: Quotas, capacity: u32) -> Self {
        let zeroes = |n| (0..n).map(|_| AtomicU32::new(0)).collect();
        Self {
            kept: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            opened: zeroes(ENDPOINTS),
            group_of: zeroes(ENDPOINTS),
            groups: zeroes(GROUPS),
            prefixes: zeroes(PREFIXES),
            destinations: zeroes(DESTINATIONS),
            quotas,
            open_to_all: capacity - quotas.node_reserve.min(capacity / 8),
            inserted: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            refused_full: AtomicU64::new(0),
            refused_quota: AtomicU64::new(0),
            displaced: AtomicU64::new(0),
        }
    }

    fn opened(&self, endpoint: EndpointId) -> &AtomicU32 {
        &self.opened[usize::from(endpoint.0) % ENDPOINTS]
    }

    fn group(&self, endpoint: EndpointId) -> &AtomicU32 {
        let group = self.group_of[usize::from(endpoint.0) % ENDPOINTS].load(Ordering::Relaxed);
        &self.groups[group as usize % GROUPS]
    }

    fn prefix(&self, index: usize) -> &AtomicU32 {
        &self.prefixes[index % PREFIXES]
    }

    fn destination(&self, index: usize) -> &AtomicU32 {
        &self.destinations[index % DESTINATIONS]
    }

    /// Makes an endpoint a member of a group, which then counts the connections that the endpoint has. The caller makes sure that
    /// no connection of the endpoint is inserted meanwhile.
    pub(crate) fn set_group(&self, endpoint: EndpointId, group: GroupId) {
        let opened = self.opened(endpoint).load(Ordering::Relaxed);
        self.group(endpoint).fetch_sub(opened, Ordering::Relaxed);
        self.group_of[usize::from(endpoint.0) % ENDPOINTS].store(u32::from(group.0), Ordering::Relaxed);
        self.group(endpoint).fetch_add(opened, Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        let gone = self.gone.load(Ordering::Relaxed);
        let inserted = self.inserted.load(Ordering::Relaxed);
        (self.kept.load(Ordering::Relaxed) + inserted).saturating_sub(gone)
    }

    /// Charges a connection to its payer.
    ///
    /// # Errors
    /// The payer may have no further connection. Nothing is charged then.
    pub(crate) fn charge(&self, charge: Charge) -> Result<(), Refusal> {
        self.charge_unchecked(charge);
        // The counts include this connection.
        let over =
            |count: &AtomicU32, limit: Option<u32>| limit.is_some_and(|limit| count.load(Ordering::Relaxed) > limit);
        let payer = charge.payer;
        let ports_of = |index| over(self.destination(index), self.quotas.per_masquerade_destination);
        let refusal = match payer {
            Payer::Endpoint(pod) if pod.is_pod() => {
                let spent = over(self.opened(pod), self.quotas.per_pod) || over(self.group(pod), self.quotas.per_group);
                spent.then_some(Refusal::Quota)
            }
            Payer::Endpoint(_) => return Ok(()),
            Payer::Outside(_, index) => {
                over(self.prefix(index), self.quotas.per_source_prefix).then_some(Refusal::Prefix)
            }
        };
        let refusal = refusal
            .or_else(|| charge.destination.is_some_and(ports_of).then_some(Refusal::Ports))
            .or_else(|| (self.used() >= u64::from(self.open_to_all)).then_some(Refusal::Reserve));
        match refusal {
            None => Ok(()),
            Some(refusal) => {
                self.withdraw(charge);
                Err(refusal)
            }
        }
    }

    /// Undoes a [`Self::charge`].
    pub(crate) fn withdraw(&self, charge: Charge) {
        self.each_of(charge, |count| {
            count.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Charges a connection regardless of the quotas.
    fn charge_unchecked(&self, charge: Charge) {
        self.each_of(charge, |count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Calls `change` with each counter that includes a connection with this charge.
    fn each_of(&self, charge: Charge, change: impl Fn(&AtomicU32)) {
        change(self.opened(charge.payer.endpoint()));
        match charge.payer {
            Payer::Endpoint(pod) if pod.is_pod() => change(self.group(pod)),
            Payer::Endpoint(_) => {}
            Payer::Outside(_, index) => change(self.prefix(index)),
        }
        if let Some(index) = charge.destination {
            change(self.destination(index));
        }
    }

    /// Charges a connection that was taken over, regardless of the quotas.
    pub(crate) fn charge_taken_over(&self, charge: Charge) {
        self.charge_unchecked(charge);
        self.kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn discharge(&self, charge: Charge) {
        self.withdraw(charge);
        self.gone.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn recharge(&self, from: Charge, to: Charge) {
        if from != to {
            self.charge_unchecked(to);
            self.withdraw(from);
        }
    }

    pub(crate) fn opened_by(&self, endpoint: EndpointId) -> u32 {
        self.opened(endpoint).load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self, geometry: &Geometry) -> Stats {
        let inserted = self.inserted.load(Ordering::Relaxed);
        Stats {
            capacity: geometry.capacity,
            used: u32::try_from(self.used()).unwrap_or(u32::MAX).min(geometry.capacity),
            inserted,
            expired: self.expired.load(Ordering::Relaxed),
            refused_full: self.refused_full.load(Ordering::Relaxed),
            refused_quota: self.refused_quota.load(Ordering::Relaxed),
            displaced: self.displaced.load(Ordering::Relaxed),
            bytes: geometry.lines() as u64 * 64,
        }
    }
}
