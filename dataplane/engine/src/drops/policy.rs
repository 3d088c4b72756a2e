//! Counters of denied packets for each pair of a policy rule and a pod, in a table of fixed size. Neither the number of policies
//! nor their changes make a worker allocate.
//!
//! A pair takes a counter with the first packet that it denies. The table is searched in a window of [`WINDOW`] counters from
//! the pair's hash on. If all of them belong to other pairs, the pair takes over the one that was idle longest, provided that
//! it was idle for [`SETTLED`], because control has read its count by then. Otherwise the packet is counted as one of
//! [`others`](PolicyCounters::others).
//!
//! # Ordering
//!
//! The key serves as a sequence lock: it is never 0 for a pair, and it is 0 while the counter changes its owner. The writer
//! stores `tenant` and `count` between two Release operations: the fence after the store of 0, and the store of the new key. A
//! reader loads them between two Acquire operations and then compares the key once more. So no count is ever read as another
//! pair's. A count from an earlier tenancy of the same pair differs in its tenancy.

use heddle_flow::Millis;
use heddle_tables::{EndpointId, RuleId};

use super::sync::{AtomicU64, Ordering, fence};

/// The counters that are candidates for a pair.
const WINDOW: usize = if cfg!(loom) { 1 } else { 8 };
/// The milliseconds without a packet after which another pair may take a counter over: several times the interval at which
/// control reads the counters.
const SETTLED: u64 = 10_000;
/// Bits of a time in milliseconds: 34 years.
const TIME_BITS: u32 = 40;

/// The counter of one pair.
#[derive(Debug)]
#[repr(align(32))]
struct PairCounter {
    /// The rule and the pod; 0 if the counter is free or changes its owner.
    key: AtomicU64,
    /// The time of the last packet in the low [`TIME_BITS`] bits, and above them the tenancy.
    tenant: AtomicU64,
    count: AtomicU64,
}

/// One worker's counters of denied packets.
#[derive(Debug)]
pub struct PolicyCounters {
    /// Their number is a power of two.
    counters: Box<[PairCounter]>,
    others: AtomicU64,
}

/// The value of one pair's counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PolicyCount {
    /// The index of the counter.
    pub slot: usize,
    /// The number of times that the counter was taken over before; each tenancy counts from 0.
    pub tenancy: u32,
    /// The denying rule.
    pub rule: RuleId,
    /// The pod whose policy contains the rule.
    pub pod: EndpointId,
    /// Denied packets.
    pub packets: u64,
}

const fn key(rule: RuleId, pod: EndpointId) -> u64 {
    rule.0 as u64 | (pod.0 as u64) << 32 | 1 << 63
}

impl PolicyCounters {
    /// Makes at least `counters` counters.
    #[must_use]
    pub fn new(counters: usize) -> Self {
        let counter = |_| PairCounter {
            key: AtomicU64::new(0),
            tenant: AtomicU64::new(0),
            count: AtomicU64::new(0),
        };
        Self {
            counters: (0..counters.max(WINDOW).next_power_of_two()).map(counter).collect(),
            others: AtomicU64::new(0),
        }
    }

    /// Returns the number of counters.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.counters.len()
    }

    /// Counts a denied packet. Only the owning worker calls it.
    ///
    /// Plan: search the window for the pair's counter or a free one, and note the counter that was idle longest on the way; take
    /// that one over if the pair has none.
    #[inline]
    pub(crate) fn count(&self, rule: RuleId, pod: EndpointId, now: Millis) {
        let key = key(rule, pod);
        let now = now.0 & ((1 << TIME_BITS) - 1);
        let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
        let (mut oldest, mut longest_idle) = (None, SETTLED);
        for step in 0..WINDOW {
            let Some(counter) = self.counters.get(first.wrapping_add(step) & (self.counters.len() - 1)) else {
                continue;
            };
            let there = counter.key.load(Ordering::Relaxed);
            let tenant = counter.tenant.load(Ordering::Relaxed);
            if there == key {
                counter
                    .count
                    .store(counter.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                counter
                    .tenant
                    .store(tenant >> TIME_BITS << TIME_BITS | now, Ordering::Relaxed);
                return;
            }
            if there == 0 {
                return counter.assign(key, 0, now);
            }
            let idle = now.saturating_sub(tenant & ((1 << TIME_BITS) - 1));
            if idle >= longest_idle {
                (oldest, longest_idle) = (Some((counter, tenant)), idle);
            }
        }
        match oldest {
            Some((counter, tenant)) => counter.assign(key, (tenant >> TIME_BITS) + 1, now),
            None => {
                let others = self.others.load(Ordering::Relaxed);
                self.others.store(others + 1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the number of packets whose pair found no counter.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }

    /// Returns the counts of all pairs. A counter that changes its owner during the call is left out.
    pub fn counts(&self) -> impl Iterator<Item = PolicyCount> + '_ {
        self.counters
            .iter()
            .enumerate()
            .filter_map(|(at, counter)| counter.read(at))
    }
}

impl PairCounter {
    /// Gives the counter to a pair, with a count of one packet.
    #[cold]
    fn assign(&self, key: u64, tenancy: u64, now: u64) {
        self.key.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.count.store(1, Ordering::Relaxed);
        self.tenant.store(tenancy << TIME_BITS | now, Ordering::Relaxed);
        self.key.store(key, Ordering::Release);
    }

    /// Reads the counter, whose index is `at`. Returns `None` if it is free or changes its owner.
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
    fn a_full_table_counts_others_until_a_counter_was_idle() {
        let counters = PolicyCounters::new(8);
        for rule in 16..24 {
            counters.count(RuleId(rule), EndpointId(2), Millis(u64::from(rule)));
        }
        counters.count(RuleId(24), EndpointId(2), Millis(15 + SETTLED));
        assert_eq!((counters.others(), counters.counts().count()), (1, 8));
        // The pair that was idle longest loses its counter, which then has another tenancy.
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

    /// One counter that changes its owner during a read: no count is read as another pair's.
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
