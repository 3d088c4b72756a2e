//! A worker's counters: one writer (the worker) and any number of readers.
//!
//! Each worker has its own [`PortCounters`] for every port number, of its own ports and of other workers' ports. A packet that
//! was handed over and then dropped is counted by the worker that dropped it, at the port where the packet came in. So the
//! sums over all workers fulfil `received = forwarded + answered + absorbed + dropped` for each port whenever no packet is
//! under way. Control computes these sums ([`PortTotals`]).

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heddle_flow::Millis;
use heddle_port::{BURST, PortId};
use heddle_tables::RuleId;

use crate::drops::{DropRing, Dropped, PolicyCounters};
use crate::reason::{AbsorbReason, AnswerKind, DropClass, DropReason};
use crate::reassembly::FragmentTotals;

/// The number of burst size classes: 1, 2, 4, … up to [`BURST`] packets.
pub const BURST_CLASSES: usize = BURST.ilog2() as usize + 1;

/// Records of dropped packets for each worker: 64 B each.
const RECENT_DROPS: usize = 2048;
/// Counters of denied packets for each worker, one for each pair of rule and pod: 32 B each.
const POLICY_COUNTERS: usize = 2048;

/// A number that one thread writes and others read. Raising it takes no locked instruction.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker calls it.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets the value. Only the owning worker calls it.
    #[inline]
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Returns the value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One worker's counters for one port. [`PortTotals`] describes them.
#[derive(Debug)]
#[repr(align(64))]
pub struct PortCounters {
    pub(crate) rx_packets: Counter,
    pub(crate) rx_bytes: Counter,
    pub(crate) tx_packets: Counter,
    pub(crate) tx_bytes: Counter,
    pub(crate) forwarded: Counter,
    pub(crate) fragments: Counter,
    pub(crate) fragments_lost: Counter,
    pub(crate) answered: [Counter; AnswerKind::COUNT],
    pub(crate) absorbed: [Counter; AbsorbReason::COUNT],
    pub(crate) dropped: [Counter; DropReason::COUNT],
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            rx_packets: Counter::default(),
            rx_bytes: Counter::default(),
            tx_packets: Counter::default(),
            tx_bytes: Counter::default(),
            forwarded: Counter::default(),
            fragments: Counter::default(),
            fragments_lost: Counter::default(),
            answered: std::array::from_fn(|_| Counter::default()),
            absorbed: std::array::from_fn(|_| Counter::default()),
            dropped: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl PortCounters {
    /// Counts a dropped fragment that is not the first one of its packet. The first one counts as the packet.
    #[inline]
    pub(crate) fn lose_fragment(&self) {
        self.fragments_lost.add(1);
    }

    #[inline]
    fn drop_packet(&self, reason: DropReason) {
        if let Some(c) = self.dropped.get(reason as usize) {
            c.add(1);
        }
    }

    #[inline]
    pub(crate) fn answer(&self, kind: AnswerKind) {
        if let Some(c) = self.answered.get(kind as usize) {
            c.add(1);
        }
    }

    #[inline]
    pub(crate) fn absorb(&self, reason: AbsorbReason) {
        if let Some(c) = self.absorbed.get(reason as usize) {
            c.add(1);
        }
    }
}

/// The counters of received fragments.
#[derive(Default, Debug)]
pub(crate) struct FragmentCounters {
    first: Counter,
    followed: Counter,
    waited: Counter,
    datagrams: Counter,
    held_frames: Counter,
}

impl FragmentCounters {
    #[cold]
    pub(crate) fn set(&self, totals: &FragmentTotals) {
        self.first.set(totals.first);
        self.followed.set(totals.followed);
        self.waited.set(totals.waited);
        self.datagrams.set(totals.datagrams);
        self.held_frames.set(totals.held_frames);
    }

    fn get(&self) -> FragmentTotals {
        FragmentTotals {
            first: self.first.get(),
            followed: self.followed.get(),
            waited: self.waited.get(),
            datagrams: self.datagrams.get(),
            held_frames: self.held_frames.get(),
        }
    }
}

/// The counters of one worker.
#[derive(Debug)]
pub struct WorkerCounters {
    ports: Box<[PortCounters]>,
    pub(crate) turns: Counter,
    pub(crate) busy_turns: Counter,
    /// Bursts by size class: at most 1, 2, 4, … packets.
    pub(crate) bursts: [Counter; BURST_CLASSES],
    pub(crate) sleeps: Counter,
    pub(crate) wakeups: Counter,
    pub(crate) handed_over: Counter,
    pub(crate) taken_over: Counter,
    pub(crate) expired: Counter,
    pub(crate) slow_path: Counter,
    pub(crate) encapsulated: Counter,
    pub(crate) decapsulated: Counter,
    pub(crate) fragments: FragmentCounters,
    /// The time at which the turn began, in milliseconds.
    pub(crate) now: Counter,
    recent: DropRing,
    policy: PolicyCounters,
}

impl WorkerCounters {
    /// Counts and records a dropped packet.
    #[inline]
    pub(crate) fn drop_packet(&self, dropped: &Dropped) {
        if let Some(c) = self.port(dropped.ingress) {
            c.drop_packet(dropped.reason);
        }
        let now = Millis(self.now.get());
        if dropped.rule >= RuleId::FIRST_POLICY {
            self.policy.count(dropped.rule, dropped.pod, now);
        }
        self.recent.note(dropped, now);
    }

    /// Returns the records of the newest dropped packets.
    #[must_use]
    pub const fn recent(&self) -> &DropRing {
        &self.recent
    }

    /// Returns the counters of the packets that policy rules denied.
    #[must_use]
    pub const fn policy(&self) -> &PolicyCounters {
        &self.policy
    }

    /// Counts a burst of `packets` packets, at least one.
    #[inline]
    pub(crate) fn burst(&self, packets: usize) {
        let class = packets.next_power_of_two().ilog2() as usize;
        if let Some(c) = self.bursts.get(class) {
            c.add(1);
        }
    }

    /// Makes counters for port numbers below `ports`.
    #[must_use]
    pub fn new(ports: u16) -> Arc<Self> {
        Arc::new(Self {
            ports: (0..ports).map(|_| PortCounters::default()).collect(),
            turns: Counter::default(),
            busy_turns: Counter::default(),
            bursts: std::array::from_fn(|_| Counter::default()),
            sleeps: Counter::default(),
            wakeups: Counter::default(),
            handed_over: Counter::default(),
            taken_over: Counter::default(),
            expired: Counter::default(),
            slow_path: Counter::default(),
            encapsulated: Counter::default(),
            decapsulated: Counter::default(),
            fragments: FragmentCounters::default(),
            now: Counter::default(),
            recent: DropRing::new(RECENT_DROPS),
            policy: PolicyCounters::new(POLICY_COUNTERS),
        })
    }

    /// Returns the limit of the port numbers.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Returns the counters of one port; `None` for a number that is not below the limit.
    #[must_use]
    #[inline]
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(usize::from(port.0))
    }

    /// Returns this worker's counts for one port.
    #[must_use]
    pub fn port_totals(&self, port: PortId) -> PortTotals {
        let mut totals = PortTotals::default();
        if let Some(c) = self.port(port) {
            totals.add_counters(c);
        }
        totals
    }

    /// Returns the counts that belong to no port.
    #[must_use]
    pub fn totals(&self) -> WorkerTotals {
        WorkerTotals {
            turns: self.turns.get(),
            busy_turns: self.busy_turns.get(),
            bursts: self.bursts.iter().map(Counter::get).sum(),
            burst_sizes: std::array::from_fn(|class| self.bursts.get(class).map_or(0, Counter::get)),
            sleeps: self.sleeps.get(),
            wakeups: self.wakeups.get(),
            handed_over: self.handed_over.get(),
            taken_over: self.taken_over.get(),
            expired: self.expired.get(),
            slow_path: self.slow_path.get(),
            encapsulated: self.encapsulated.get(),
            decapsulated: self.decapsulated.get(),
            fragments: self.fragments.get(),
        }
    }
}

/// A worker's counts that belong to no port, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WorkerTotals {
    /// Turns.
    pub turns: u64,
    /// Turns with work: packets, hand-overs or messages.
    pub busy_turns: u64,
    /// Bursts received; `rx_packets / bursts` is the vector rate.
    pub bursts: u64,
    /// Bursts by size: class `n` counts bursts of at most `1 << n` packets that do not fit class `n - 1`.
    pub burst_sizes: [u64; BURST_CLASSES],
    /// Sleeps.
    pub sleeps: u64,
    /// Sleeps that a packet, another worker or control ended. The other sleeps ended by their time limit.
    pub wakeups: u64,
    /// Packets handed over to other workers.
    pub handed_over: u64,
    /// Packets that other workers handed over to this one.
    pub taken_over: u64,
    /// Flows that the worker removed because they were idle too long.
    pub expired: u64,
    /// Packets that took the slow path, because no current flow entry matched.
    pub slow_path: u64,
    /// Packets that were put into a tunnel, each fragment by itself. Some may have been dropped afterwards, at a full ring.
    pub encapsulated: u64,
    /// Packets of other nodes that were taken out of a tunnel. Some may have been dropped afterwards, by policy for example.
    pub decapsulated: u64,
    /// The counters of received fragments.
    pub fragments: FragmentTotals,
}

/// The counts of one port, of one worker or summed over all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortTotals {
    /// Packets received at the port.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that left by the port.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that came in at the port and left by any port.
    pub forwarded: u64,
    /// Fragments that heddle made of such packets and sent, without the first one of each packet, which counts as the packet.
    pub fragments: u64,
    /// Such fragments that were dropped because a queue, a ring or the port was not available.
    pub fragments_lost: u64,
    /// Packets that came in at the port and were answered by heddle, by [`AnswerKind`].
    pub answered: [u64; AnswerKind::COUNT],
    /// Packets that came in at the port and were absorbed, by [`AbsorbReason`].
    pub absorbed: [u64; AbsorbReason::COUNT],
    /// Packets that came in at the port and were dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
}

impl Default for PortTotals {
    fn default() -> Self {
        Self {
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            forwarded: 0,
            fragments: 0,
            fragments_lost: 0,
            answered: [0; AnswerKind::COUNT],
            absorbed: [0; AbsorbReason::COUNT],
            dropped: [0; DropReason::COUNT],
        }
    }
}

impl PortTotals {
    fn add_counters(&mut self, c: &PortCounters) {
        self.rx_packets += c.rx_packets.get();
        self.rx_bytes += c.rx_bytes.get();
        self.tx_packets += c.tx_packets.get();
        self.tx_bytes += c.tx_bytes.get();
        self.forwarded += c.forwarded.get();
        self.fragments += c.fragments.get();
        self.fragments_lost += c.fragments_lost.get();
        add_each(&mut self.answered, &c.answered);
        add_each(&mut self.absorbed, &c.absorbed);
        add_each(&mut self.dropped, &c.dropped);
    }

    /// Returns the drops by reason, without reasons that did not occur.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .copied()
            .zip(self.dropped)
            .filter(|(_, n)| *n > 0)
    }

    /// Returns the drops by class, without classes that did not occur.
    pub fn drops_by_class(&self) -> impl Iterator<Item = (DropClass, u64)> + '_ {
        let of_class = |class: DropClass| self.drops().filter(move |(reason, _)| reason.class() == class);
        DropClass::ALL
            .iter()
            .map(move |class| (*class, of_class(*class).map(|(_, n)| n).sum()))
            .filter(|(_, n)| *n > 0)
    }

    /// Returns the local replies by kind, without kinds that did not occur.
    pub fn answers(&self) -> impl Iterator<Item = (AnswerKind, u64)> + '_ {
        AnswerKind::ALL
            .iter()
            .copied()
            .zip(self.answered)
            .filter(|(_, n)| *n > 0)
    }

    /// Returns the absorbed packets by reason, without reasons that did not occur.
    pub fn absorptions(&self) -> impl Iterator<Item = (AbsorbReason, u64)> + '_ {
        AbsorbReason::ALL
            .iter()
            .copied()
            .zip(self.absorbed)
            .filter(|(_, n)| *n > 0)
    }

    /// Returns the packets that were forwarded, answered, absorbed or dropped. Equals `rx_packets` if no packet is under way.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.forwarded
            + self.answered.iter().sum::<u64>()
            + self.absorbed.iter().sum::<u64>()
            + self.dropped.iter().sum::<u64>()
    }
}

impl AddAssign<&PortTotals> for PortTotals {
    fn add_assign(&mut self, o: &Self) {
        self.rx_packets += o.rx_packets;
        self.rx_bytes += o.rx_bytes;
        self.tx_packets += o.tx_packets;
        self.tx_bytes += o.tx_bytes;
        self.forwarded += o.forwarded;
        self.fragments += o.fragments;
        self.fragments_lost += o.fragments_lost;
        for (mine, theirs) in self.answered.iter_mut().zip(o.answered) {
            *mine += theirs;
        }
        for (mine, theirs) in self.absorbed.iter_mut().zip(o.absorbed) {
            *mine += theirs;
        }
        for (mine, theirs) in self.dropped.iter_mut().zip(o.dropped) {
            *mine += theirs;
        }
    }
}

/// Adds the values of counters to totals, element by element.
fn add_each(totals: &mut [u64], counters: &[Counter]) {
    for (t, c) in totals.iter_mut().zip(counters) {
        *t += c.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_counted_by_size() {
        let counters = WorkerCounters::new(1);
        for packets in [1, 1, 2, 3, 4, 5, 33, BURST] {
            counters.burst(packets);
        }
        let totals = counters.totals();
        assert_eq!(totals.burst_sizes, [2, 1, 2, 1, 0, 0, 2]);
        assert_eq!(totals.bursts, 8);
    }

    #[test]
    fn totals_sum_what_workers_counted() {
        let workers = [WorkerCounters::new(4), WorkerCounters::new(4)];
        for (w, n) in workers.iter().zip([1, 2]) {
            let c = w.port(PortId(3)).unwrap();
            c.rx_packets.add(n);
            c.drop_packet(DropReason::SpoofedSource);
        }
        let mut sum = PortTotals::default();
        for w in &workers {
            sum += &w.port_totals(PortId(3));
        }
        assert_eq!(sum.rx_packets, 3);
        assert_eq!(sum.drops().collect::<Vec<_>>(), [(DropReason::SpoofedSource, 2)]);
        assert_eq!(sum.drops_by_class().collect::<Vec<_>>(), [(DropClass::Spoofing, 2)]);
        assert_eq!(sum.ended(), 2);
        assert!(workers[0].port(PortId(4)).is_none());
    }
}
