//! How many packets each policy denied, for each pod that it was asked for: a table of fixed size, so that neither the number
//! of policies nor their changes make a worker allocate.
//!
//! A pair of rule and pod takes a slot with the first packet that it denies. Where all slots that it may have are taken, it
//! gets the one that rested longest, if that did so for [`SETTLED`]: control has added that one up by then. Else the packet is
//! counted as one of [`others`](PolicyCounters::others).
//!
//! # Ordering
//!
//! The key is the sequence of its slot: it is never 0, and it is 0 while the slot changes hands. Tenant and count are stored
//! between two Release operations (a fence behind the 0, the store of the new key), and a reader loads them between two
//! Acquire operations and looks whether the key is still there. So no count is ever read as another key's; a count of the same
//! key's earlier tenancy is told apart by the tenancy.

use heddle_flow::Millis;
use heddle_tables::{EndpointId, RuleId};

use super::sync::{AtomicU64, Ordering, fence};

/// Slots that a pair may have.
const WINDOW: usize = if cfg!(loom) { 1 } else { 8 };
/// How long a slot rests, in milliseconds, before another pair may have it: several times as long as control takes between
/// two looks.
const SETTLED: u64 = 10_000;
const TIME_BITS: u32 = 40;

/// One pair's counter.
#[derive(Debug)]
#[repr(align(32))]
struct Slot {
    /// Rule and pod; 0: nobody's.
    key: AtomicU64,
    /// When it last counted, and above that how often it changed hands.
    tenant: AtomicU64,
    count: AtomicU64,
}

/// The counters of one worker.
#[derive(Debug)]
pub struct PolicyCounters {
    /// As many as a power of two.
    slots: Box<[Slot]>,
    others: AtomicU64,
}

/// The count of one slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PolicyCount {
    /// The slot.
    pub slot: usize,
    /// How often it had changed hands: another tenancy counts from 0.
    pub tenancy: u32,
    /// The denying rule.
    pub rule: RuleId,
    /// The pod whose policy that is.
    pub pod: EndpointId,
    /// Packets.
    pub packets: u64,
}

const fn key(rule: RuleId, pod: EndpointId) -> u64 {
    rule.0 as u64 | (pod.0 as u64) << 32 | 1 << 63
}

impl PolicyCounters {
    /// At least so many slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let slot = |_| Slot {
            key: AtomicU64::new(0),
            tenant: AtomicU64::new(0),
            count: AtomicU64::new(0),
        };
        Self {
            slots: (0..slots.max(WINDOW).next_power_of_two()).map(slot).collect(),
            others: AtomicU64::new(0),
        }
    }

    /// How many slots there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Counts a packet; only the owning worker does.
    #[inline]
    pub(crate) fn count(&self, rule: RuleId, pod: EndpointId, now: Millis) {
        let key = key(rule, pod);
        let now = now.0 & ((1 << TIME_BITS) - 1);
        let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
        let (mut oldest, mut rested) = (None, SETTLED);
        for step in 0..WINDOW {
            let Some(slot) = self.slots.get(first.wrapping_add(step) & (self.slots.len() - 1)) else {
                continue;
            };
            let there = slot.key.load(Ordering::Relaxed);
            let tenant = slot.tenant.load(Ordering::Relaxed);
            if there == key {
                slot.count
                    .store(slot.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                slot.tenant
                    .store(tenant >> TIME_BITS << TIME_BITS | now, Ordering::Relaxed);
                return;
            }
            if there == 0 {
                return slot.take(key, 0, now);
            }
            let resting = now.saturating_sub(tenant & ((1 << TIME_BITS) - 1));
            if resting >= rested {
                (oldest, rested) = (Some((slot, tenant)), resting);
            }
        }
        match oldest {
            Some((slot, tenant)) => slot.take(key, (tenant >> TIME_BITS) + 1, now),
            None => {
                let others = self.others.load(Ordering::Relaxed);
                self.others.store(others + 1, Ordering::Relaxed);
            }
        }
    }

    /// Packets for whose pair there was no slot.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }

    /// Returns the counts, slot by slot.
    pub fn counts(&self) -> impl Iterator<Item = PolicyCount> + '_ {
        self.slots.iter().enumerate().filter_map(|(at, slot)| slot.read(at))
    }
}

impl Slot {
    /// Gives it to a pair that has denied one packet.
    #[cold]
    fn take(&self, key: u64, tenancy: u64, now: u64) {
        self.key.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.count.store(1, Ordering::Relaxed);
        self.tenant.store(tenancy << TIME_BITS | now, Ordering::Relaxed);
        self.key.store(key, Ordering::Release);
    }

    fn read(&self, at: usize) -> Option<PolicyCount> {
        let key = self.key.load(Ordering::Acquire);
        if key == 0 {
            return None;
        }
        let (tenant, packets) = (self.tenant.load(Ordering::Relaxed), self.count.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (self.key.load(Ordering::Relaxed) == key).then_some(PolicyCount {
            slot: at,
            tenancy: (tenant >> TIME_BITS) as u32,
            rule: RuleId(key as u32),
            pod: EndpointId((key >> 32 & 0xffff) as u16),
            packets,
        })
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn shown(counters: &PolicyCounters) -> Vec<(u32, u16, u64)> {
        let mut all: Vec<_> = counters.counts().map(|c| (c.rule.0, c.pod.0, c.packets)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn each_pair_of_rule_and_pod_has_its_own() {
        let counters = PolicyCounters::new(64);
        for (rule, pod) in [(16, 2), (16, 3), (16, 2), (17, 2)] {
            counters.count(RuleId(rule), EndpointId(pod), Millis(1));
        }
        assert_eq!(shown(&counters), [(16, 2, 2), (16, 3, 1), (17, 2, 1)]);
        assert_eq!(counters.others(), 0);
    }

    #[test]
    fn a_full_table_counts_others_until_a_slot_has_rested() {
        let counters = PolicyCounters::new(8);
        for rule in 16..24 {
            counters.count(RuleId(rule), EndpointId(2), Millis(u64::from(rule)));
        }
        counters.count(RuleId(24), EndpointId(2), Millis(15 + SETTLED));
        assert_eq!((counters.others(), counters.counts().count()), (1, 8));
        // The one that rested longest goes, and comes back as another tenancy.
        counters.count(RuleId(24), EndpointId(2), Millis(16 + SETTLED));
        let all = shown(&counters);
        assert!(
            all.contains(&(24, 2, 1)) && all.iter().all(|(rule, ..)| *rule != 16),
            "{all:?}"
        );
        let tenancies: Vec<u32> = counters
            .counts()
            .filter(|c| c.rule.0 == 24)
            .map(|c| c.tenancy)
            .collect();
        assert_eq!(tenancies, [1]);
        assert_eq!(counters.others(), 1);
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p heddle-engine --release --lib loom`
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// One slot that changes hands while somebody reads: no count is another key's.
    #[test]
    fn loom_a_count_is_never_read_as_another_keys() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let counters = Arc::new(PolicyCounters::new(1));
            let writer = {
                let counters = Arc::clone(&counters);
                thread::spawn(move || {
                    // The first denies one packet, the second two.
                    counters.count(RuleId(16), EndpointId(2), Millis(0));
                    counters.count(RuleId(17), EndpointId(3), Millis(SETTLED));
                    counters.count(RuleId(17), EndpointId(3), Millis(SETTLED));
                })
            };
            for count in counters.counts() {
                match count.rule.0 {
                    16 => assert_eq!((count.pod.0, count.packets, count.tenancy), (2, 1, 0)),
                    _ => assert!(count.pod.0 == 3 && count.tenancy == 1 && (1..=2).contains(&count.packets)),
                }
            }
            writer.join().unwrap();
            let last: Vec<_> = counters.counts().map(|c| (c.rule.0, c.packets)).collect();
            assert_eq!(last, [(17, 2)]);
        });
    }
}
