//! The connections that the flow table refused lately.
//!
//! The sender of a refused connection retransmits the first packet, at a rate that it chooses itself. For a short time these packets
//! are dropped without another decision and without another search for a source port.

use heddle_flow::{FlowKey, Millis};

use crate::reason::DropReason;

/// The number of remembered refusals. Two connections with the same place overwrite each other, which costs one search more.
const PLACES: usize = 256;
/// The time for which a refusal is remembered, in milliseconds. A TCP client's first retransmission comes after a second (RFC 6298
/// section 2.1), so it is always tried again.
const MEMORY_MS: u64 = 200;

/// The refusals that one worker remembers.
#[derive(Debug)]
pub(crate) struct Refusals(Box<[Option<(FlowKey, Millis, DropReason)>; PLACES]>);

impl Refusals {
    /// Remembers no refusal yet.
    pub(crate) fn new() -> Self {
        Self(Box::new([None; PLACES]))
    }

    /// Returns the reason for which a connection was refused lately. `hash` is the connection's
    /// [`secret_hash`](heddle_flow::FlowTable::secret_hash).
    pub(crate) fn find(&self, hash: u64, key: &FlowKey, now: Millis) -> Option<DropReason> {
        match self.0.get(hash as usize % PLACES)? {
            Some((refused, at, reason)) if refused == key && now.since(*at) < MEMORY_MS => Some(*reason),
            _ => None,
        }
    }

    /// Records a refusal.
    pub(crate) fn record(&mut self, hash: u64, key: &FlowKey, now: Millis, reason: DropReason) {
        if let Some(place) = self.0.get_mut(hash as usize % PLACES) {
            *place = Some((*key, now, reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_flow::Origin;
    use heddle_wire::rewrite::Tuple;
    use heddle_wire::{Ip, Proto};

    use super::*;

    #[test]
    fn a_refusal_is_known_for_a_while_and_for_its_connection_only() {
        let key = |sport| {
            let (src, dst) = (Ip::from_v4([10, 0, 0, 1]), Ip::from_v4([10, 0, 0, 2]));
            let tuple = Tuple {
                src,
                dst,
                sport,
                dport: 80,
            };
            FlowKey::opening(tuple, Proto::TCP, Origin::HOST)
        };
        let mut refusals = Refusals::new();
        refusals.record(7, &key(1), Millis(1000), DropReason::FlowQuota);
        assert_eq!(refusals.find(7, &key(1), Millis(1199)), Some(DropReason::FlowQuota));
        assert_eq!(refusals.find(7, &key(1), Millis(1200)), None);
        assert_eq!(refusals.find(7, &key(2), Millis(1000)), None);
        // Another connection in the same place overwrites it.
        refusals.record(7 + PLACES as u64, &key(2), Millis(1000), DropReason::FlowTableFull);
        assert_eq!(refusals.find(7, &key(1), Millis(1000)), None);
    }
}
