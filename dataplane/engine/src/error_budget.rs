//! The rate of ICMP errors: a token bucket for each ingress port (RFC 4443 section 2.4(f), RFC 1812 section 4.3.2.8).
//!
//! Each port has its own, so that a pod that provokes errors does not use up the packet-too-big messages of another one.

use heddle_flow::Millis;
use heddle_port::PortId;

/// The limits of a port's ICMP errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorLimits {
    /// Errors per second, in the long run.
    pub per_second: u32,
    /// The most errors at once, after a time without errors.
    pub burst: u32,
}

impl Default for ErrorLimits {
    fn default() -> Self {
        Self {
            per_second: 1000,
            burst: 512,
        }
    }
}

/// One port's bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Errors that may be sent, in thousandths.
    thousandths: u64,
    /// The time up to which the bucket was filled.
    at: Millis,
}

/// The buckets of all ports.
#[derive(Debug)]
pub(crate) struct ErrorBudget {
    limits: ErrorLimits,
    buckets: Box<[Option<Bucket>]>,
}

impl ErrorBudget {
    /// Makes full buckets for port numbers below `ports`.
    pub(crate) fn new(limits: ErrorLimits, ports: u16) -> Self {
        Self {
            limits,
            buckets: vec![None; usize::from(ports)].into(),
        }
    }

    /// Takes one error of a port's budget. Returns false if it is used up.
    pub(crate) fn allow(&mut self, port: PortId, now: Millis) -> bool {
        let full = u64::from(self.limits.burst) * 1000;
        let Some(place) = self.buckets.get_mut(usize::from(port.0)) else {
            return false;
        };
        let bucket = place.get_or_insert(Bucket {
            thousandths: full,
            at: now,
        });
        // One error per second is one thousandth per millisecond.
        let earned = now.since(bucket.at).saturating_mul(u64::from(self.limits.per_second));
        bucket.thousandths = bucket.thousandths.saturating_add(earned).min(full);
        bucket.at = bucket.at.max(now);
        match bucket.thousandths.checked_sub(1000) {
            Some(left) => bucket.thousandths = left,
            None => return false,
        }
        true
    }

    /// Fills a port's bucket: another port may get the number.
    pub(crate) fn reset(&mut self, port: PortId) {
        if let Some(place) = self.buckets.get_mut(usize::from(port.0)) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_its_burst_and_its_rate_and_nobody_elses() {
        let limits = ErrorLimits {
            per_second: 100,
            burst: 3,
        };
        let mut budget = ErrorBudget::new(limits, 2);
        let mut sent = |port, ms, tries| (0..tries).filter(|_| budget.allow(PortId(port), Millis(ms))).count();
        assert_eq!(sent(0, 1000, 10), 3);
        assert_eq!(sent(1, 1000, 10), 3);
        // One every ten milliseconds.
        assert_eq!(sent(0, 1009, 10), 0);
        assert_eq!(sent(0, 1010, 10), 1);
        // Never more than the burst, however long the silence.
        assert_eq!(sent(0, 900_000, 10), 3);
        // A clock that stands still, or a number that no port has, gives nothing.
        assert_eq!(sent(0, 900_000, 1), 0);
        assert_eq!(sent(2, 900_000, 1), 0);
        budget.reset(PortId(0));
        assert!(budget.allow(PortId(0), Millis(900_000)));
    }
}
