//! The connections that the flow table refused lately.
//!
//! A refused connection's sender sends its first packet again, and may do so at any rate. Its packets are dropped without
//! another search for a source port until a short time has passed.

use heddle_flow::{FlowKey, Millis};

use crate::reason::DropReason;

/// Places. A connection that shares its place with another one displaces it, which costs a search and no more.
const PLACES: usize = 256;
/// The time for which a refusal is remembered. A client's first retransmission comes after a second (RFC 6298 section 2.1),
/// so it finds what was freed meanwhile.
const MEMORY_MS: u64 = 200;

/// One worker's memory of refusals.
#[derive(Debug)]
pub(crate) struct Refusals(Box<[Option<(FlowKey, Millis, DropReason)>; PLACES]>);

impl Refusals {
    /// Makes an empty memory.
    pub(crate) fn new() -> Self {
        Self(Box::new([None; PLACES]))
    }

    /// Returns the reason for which a connection was refused lately. `hash` is the connection's secret hash.
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
        // Another connection in the same place displaces it.
        refusals.record(7 + PLACES as u64, &key(2), Millis(1000), DropReason::FlowTableFull);
        assert_eq!(refusals.find(7, &key(1), Millis(1000)), None);
    }
}
