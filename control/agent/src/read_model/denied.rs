//! The packets that policies denied, summed over all workers, by policy and pod.
//!
//! A worker counts by rule id in a table of fixed size, and reuses the slot of a rule that has denied nothing for a
//! while. The sums here are updated more often than slots are reused, so no count is lost. They are kept by the
//! policy's name, so a sum continues when the policy is compiled again, and stays when the policy is deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use heddle_engine::{PolicyCount, PolicyCounters};
use heddle_proto::Named;
use heddle_proto::status::Denied;
use heddle_tables::{EndpointId, Provenance, RuleId};

use super::meters::WorkerView;
use super::policies::{describe, is_policy};
use super::view::View;

/// The maximum number of sums. If it is reached, the sum that has not risen for the longest time is added to `others`.
const MAX_SUMS: usize = 4096;

/// The decision of a policy, and the pod for which it denied packets.
type Pair = (Arc<Provenance>, Option<Named>);

#[derive(Debug)]
struct Sum {
    packets: u64,
    /// The time at which it last rose.
    raised: Instant,
}

/// The sums by policy and pod.
#[derive(Debug, Default)]
pub(super) struct DeniedSums {
    /// For each worker: the last values that were read. These are the tenancy (the number of reuses) and the count of
    /// each slot, and the count of packets without a slot.
    seen: Vec<(Vec<(u32, u64)>, u64)>,
    sums: BTreeMap<Pair, Sum>,
    /// Packets without a sum of their own.
    others: u64,
}

impl DeniedSums {
    /// Adds the packets that workers have counted since the last call, by the policy and pod that the tables of `view` name.
    pub(super) fn add_new_counts(&mut self, view: &View, workers: &[WorkerView]) {
        let now = Instant::now();
        let mut counts = Vec::new();
        for (index, worker) in workers.iter().enumerate() {
            counts.extend(self.new_counts(index, worker.counters.policy()));
        }
        for (rule, pod, packets) in counts {
            let decision = view.snapshot.as_ref().and_then(|snapshot| snapshot.provenance(rule));
            let decision = decision.filter(|decision| is_policy(decision));
            let pair = decision.map(|decision| (decision, view.pod_of(pod)));
            self.add(pair, packets, now);
        }
    }

    /// Returns the packets that a worker has counted since the last call, by rule and pod.
    fn new_counts(&mut self, worker: usize, counters: &PolicyCounters) -> Vec<(RuleId, EndpointId, u64)> {
        if self.seen.len() <= worker {
            self.seen
                .resize_with(worker + 1, || (vec![(0, 0); counters.capacity()], 0));
        }
        let Some((slots, others)) = self.seen.get_mut(worker) else {
            return Vec::new();
        };
        let more = counters.others();
        self.others += more.saturating_sub(*others);
        *others = more;
        let new = |count: PolicyCount| {
            let (tenancy, before) = slots.get_mut(count.slot)?;
            if *tenancy != count.tenancy {
                (*tenancy, *before) = (count.tenancy, 0);
            }
            let more = count.packets.saturating_sub(*before);
            *before = count.packets.max(*before);
            (more > 0).then_some((count.rule, count.pod, more))
        };
        counters.counts().filter_map(new).collect()
    }

    /// Adds packets to a sum, or to `others` if the policy is not known.
    fn add(&mut self, pair: Option<Pair>, packets: u64, now: Instant) {
        let Some(pair) = pair else {
            self.others += packets;
            return;
        };
        if self.sums.len() >= MAX_SUMS && !self.sums.contains_key(&pair) {
            let oldest = self.sums.iter().min_by_key(|(_, sum)| sum.raised);
            if let Some(oldest) = oldest.map(|(pair, _)| pair.clone())
                && let Some(sum) = self.sums.remove(&oldest)
            {
                self.others += sum.packets;
            }
        }
        let sum = self.sums.entry(pair).or_insert(Sum {
            packets: 0,
            raised: now,
        });
        sum.packets += packets;
        sum.raised = now;
    }

    /// Returns the sums, sorted by policy and pod.
    pub(super) fn all(&self) -> Vec<Denied> {
        let denied = |((decision, pod), sum): (&Pair, &Sum)| {
            Some(Denied {
                policy: describe(decision)?,
                pod: pod.clone(),
                packets: sum.packets,
            })
        };
        let mut all: Vec<Denied> = self.sums.iter().filter_map(denied).collect();
        all.sort_by(|a, b| (&a.policy, &a.pod).cmp(&(&b.policy, &b.pod)));
        all
    }

    /// Returns the packets without a sum of their own.
    pub(super) const fn others(&self) -> u64 {
        self.others
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heddle_tables::Direction;

    use super::*;

    fn pair(name: &str) -> Option<Pair> {
        let decision = Provenance::DefaultDeny {
            namespace: "a".into(),
            name: name.into(),
            direction: Direction::Ingress,
        };
        Some((Arc::new(decision), Named::new("a", "pod")))
    }

    #[test]
    fn sums_are_bounded_and_none_is_lost() {
        let mut sums = DeniedSums::default();
        let start = Instant::now();
        for n in 0..MAX_SUMS as u64 {
            sums.add(pair(&format!("p{n}")), 1, start + Duration::from_millis(n));
        }
        sums.add(pair("p0"), 4, start + Duration::from_secs(60));
        sums.add(pair("new"), 7, start + Duration::from_secs(61));
        sums.add(None, 2, start);
        let packets = |name: &str| {
            let all = sums.all();
            all.iter().find(|d| d.policy.name == name).map(|d| d.packets)
        };
        assert_eq!((packets("p0"), packets("p1"), packets("new")), (Some(5), None, Some(7)));
        assert_eq!((sums.all().len(), sums.others()), (MAX_SUMS, 3));
    }
}
