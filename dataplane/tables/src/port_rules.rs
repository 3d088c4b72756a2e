//! The verdicts for one identity by protocol and port, as they are built and in packed form for the lookup.

use std::sync::Arc;

use heddle_wire::Proto;

use crate::{Cell, PortSet};

/// The verdicts for one identity, by protocol and port.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct PortRules {
    /// TCP by destination port.
    pub tcp: PortSet,
    /// UDP by destination port.
    pub udp: PortSet,
    /// SCTP by destination port.
    pub sctp: PortSet,
    /// Every other protocol: the verdict of rules without ports.
    pub other: Cell,
}

/// The protocols with verdicts by port.
pub(crate) const WITH_PORTS: [Proto; 3] = [Proto::TCP, Proto::UDP, Proto::SCTP];

impl PortRules {
    fn of(&self, proto: Proto) -> Option<&PortSet> {
        match proto {
            Proto::TCP => Some(&self.tcp),
            Proto::UDP => Some(&self.udp),
            Proto::SCTP => Some(&self.sctp),
            _ => None,
        }
    }
}

/// The number of ranges in a [`PackedPortRules`].
const ROOM: usize = 4;

/// A row in one cache line: the ranges of all protocols together. A row with more ranges stays unpacked in `large`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[repr(C, align(64))]
pub(crate) struct PackedPortRules {
    /// The first protocol and port of each range.
    first: [u32; ROOM],
    /// The last protocol and port of each range.
    last: [u32; ROOM],
    /// The verdict of each range.
    cells: [Cell; ROOM],
    other: Cell,
    large: Option<Arc<PortRules>>,
}

const _: () = assert!(size_of::<PackedPortRules>() == 64);

/// Returns protocol and port as one integer, ordered by protocol.
const fn key(proto: Proto, port: u16) -> u32 {
    (proto.0 as u32) << 16 | port as u32
}

impl Default for PackedPortRules {
    fn default() -> Self {
        Self {
            // An empty range, which ends before it starts.
            first: [1; ROOM],
            last: [0; ROOM],
            cells: [Cell::DEFAULT; ROOM],
            other: Cell::DEFAULT,
            large: None,
        }
    }
}

impl From<&PortRules> for PackedPortRules {
    fn from(row: &PortRules) -> Self {
        let mut packed = Self {
            other: row.other,
            ..Self::default()
        };
        if packed.fill(row).is_none() {
            packed = Self {
                other: row.other,
                large: Some(Arc::new(row.clone())),
                ..Self::default()
            };
        }
        packed
    }
}

impl PackedPortRules {
    /// Writes the ranges; `None` if there are more than fit.
    fn fill(&mut self, row: &PortRules) -> Option<()> {
        let mut at = 0;
        for proto in WITH_PORTS {
            for range in row.of(proto)?.few()? {
                *self.first.get_mut(at)? = key(proto, range.first);
                *self.last.get_mut(at)? = key(proto, range.last);
                *self.cells.get_mut(at)? = range.cell;
                at += 1;
            }
        }
        Some(())
    }

    /// Returns the verdict for a protocol and port.
    #[inline]
    pub(crate) fn get(&self, proto: Proto, port: u16) -> Cell {
        if let Some(large) = &self.large {
            return large.of(proto).map_or(large.other, |ports| ports.get(port));
        }
        let asked = key(proto, port);
        // At most one range contains it, because ranges do not overlap.
        let mut found = 0;
        for ((first, last), cell) in self.first.iter().zip(&self.last).zip(&self.cells) {
            let held = u32::from(*first <= asked) & u32::from(asked <= *last);
            found |= cell.bits() & held.wrapping_neg();
        }
        if WITH_PORTS.contains(&proto) {
            Cell::from_bits(found)
        } else {
            self.other
        }
    }

    /// Returns the ports at which the verdict may change.
    pub(crate) fn edges(&self, proto: Proto) -> Vec<u16> {
        if let Some(large) = &self.large {
            return large.of(proto).map(PortSet::edges).unwrap_or_default();
        }
        let ranges = self.first.iter().zip(&self.last);
        let of_it = ranges.filter(|(first, last)| first <= last && **first >> 16 == u32::from(proto.0));
        let edges = of_it.flat_map(|(first, last)| [Some(*first as u16), (*last as u16).checked_add(1)]);
        edges.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use heddle_ids::RuleId;
    use proptest::prelude::*;

    use super::*;
    use crate::PortRange;

    fn ports() -> impl Strategy<Value = PortSet> {
        let range = (0u16..30, 0u16..4, 16u32..20).prop_map(|(first, span, rule)| PortRange {
            first,
            last: first + span,
            cell: Cell::allow(RuleId(rule)),
        });
        prop::collection::vec(range, 0..4).prop_map(PortSet::new)
    }

    proptest! {
        #[test]
        fn packed_or_not_it_says_the_same(tcp in ports(), udp in ports(), sctp in ports(), other in 16u32..18) {
            let row = PortRules { tcp, udp, sctp, other: Cell::deny(RuleId(other)) };
            let packed = PackedPortRules::from(&row);
            for proto in WITH_PORTS {
                for port in 0..40 {
                    let want = row.of(proto).unwrap().get(port);
                    prop_assert_eq!(packed.get(proto, port), want);
                    let changes = port > 0 && want != row.of(proto).unwrap().get(port - 1);
                    prop_assert!(!changes || packed.edges(proto).contains(&port));
                }
            }
            prop_assert_eq!(packed.get(Proto::ICMP, 0), row.other);
            prop_assert_eq!(packed.get(Proto(0), 0), row.other);
        }
    }
}
