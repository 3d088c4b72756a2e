//! Sets of ports with a verdict each: ranges that do not overlap, looked up in constant time.

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::Cell;

/// An inclusive range of ports and its verdict.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
    /// The verdict.
    pub cell: Cell,
}

/// The most ranges that are searched one by one. More ranges are worth the memory of a two-level table.
const FEW: usize = 8;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Repr {
    Few(ArrayVec<PortRange, FEW>),
    /// By the high octet: the number of a leaf of 256 cells.
    Table {
        high: Box<[u16; 256]>,
        leaves: Arc<[[Cell; 256]]>,
    },
}

/// The verdicts for the ports of one protocol.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PortSet(Repr);

impl PortSet {
    /// Returns the set of these ranges. If they overlap, the first one counts. Other ports are [`Cell::DEFAULT`].
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let flat = first_wins(ranges);
        match flat.iter().copied().collect::<FewOrMore>() {
            FewOrMore::Few(few) => Self(Repr::Few(few)),
            FewOrMore::More => Self(table(&flat)),
        }
    }

    /// Returns the verdict for `port`.
    #[inline]
    #[must_use]
    pub fn get(&self, port: u16) -> Cell {
        match &self.0 {
            Repr::Few(ranges) => ranges
                .iter()
                .find(|r| r.first <= port && port <= r.last)
                .map_or(Cell::DEFAULT, |r| r.cell),
            Repr::Table { high, leaves } => {
                let leaf = high[usize::from(port >> 8)];
                leaves
                    .get(usize::from(leaf))
                    .map_or(Cell::DEFAULT, |l| l[usize::from(port & 255)])
            }
        }
    }
}

impl PortSet {
    /// Returns the ranges, in order and disjoint, if there are few.
    pub(crate) fn few(&self) -> Option<&[PortRange]> {
        match &self.0 {
            Repr::Few(ranges) => Some(ranges),
            Repr::Table { .. } => None,
        }
    }

    /// Returns the ports at which the verdict may differ from the previous port's. Port 0 need not be among them.
    #[must_use]
    pub fn edges(&self) -> Vec<u16> {
        match &self.0 {
            Repr::Few(ranges) => ranges
                .iter()
                .flat_map(|r| [Some(r.first), r.last.checked_add(1)])
                .flatten()
                .collect(),
            Repr::Table { .. } => (1..=u16::MAX)
                .filter(|port| self.get(*port) != self.get(port - 1))
                .collect(),
        }
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self(Repr::Few(ArrayVec::new_const()))
    }
}

enum FewOrMore {
    Few(ArrayVec<PortRange, FEW>),
    More,
}

impl FromIterator<PortRange> for FewOrMore {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut few = ArrayVec::new();
        for range in ranges {
            if few.try_push(range).is_err() {
                return Self::More;
            }
        }
        Self::Few(few)
    }
}

/// Returns sorted, disjoint ranges with the same verdicts as `ranges`, where the first of overlapping ranges counts.
#[must_use]
pub fn first_wins(ranges: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
    let mut flat: Vec<PortRange> = Vec::new();
    for range in ranges {
        lay(&mut flat, range);
    }
    flat
}

/// Adds the parts of `range` that sorted, disjoint ranges leave free, and joins neighbors with the same verdict.
fn lay(flat: &mut Vec<PortRange>, range: PortRange) {
    let mut free = Vec::new();
    let mut next = u32::from(range.first);
    for r in flat.iter() {
        if u32::from(r.last) < next {
            continue;
        }
        if r.first > range.last {
            break;
        }
        if u32::from(r.first) > next {
            free.push(PortRange {
                first: next as u16,
                last: r.first - 1,
                cell: range.cell,
            });
        }
        next = u32::from(r.last) + 1;
    }
    if next <= u32::from(range.last) {
        free.push(PortRange {
            first: next as u16,
            last: range.last,
            cell: range.cell,
        });
    }
    flat.extend(free);
    flat.sort_unstable_by_key(|r| r.first);
    flat.dedup_by(|b, a| {
        let joins = a.cell == b.cell && u32::from(a.last) + 1 == u32::from(b.first);
        if joins {
            a.last = b.last;
        }
        joins
    });
}

fn table(flat: &[PortRange]) -> Repr {
    let mut leaves: Vec<[Cell; 256]> = Vec::new();
    let mut high = Box::new([0u16; 256]);
    for (octet, slot) in (0u16..256).zip(high.iter_mut()) {
        let mut leaf = [Cell::DEFAULT; 256];
        for (low, cell) in (0u16..256).zip(leaf.iter_mut()) {
            let port = octet << 8 | low;
            let at = flat.partition_point(|r| r.last < port);
            if let Some(r) = flat.get(at).filter(|r| r.first <= port) {
                *cell = r.cell;
            }
        }
        let known = leaves.iter().position(|l| *l == leaf);
        *slot = known.unwrap_or(leaves.len()) as u16;
        if known.is_none() {
            leaves.push(leaf);
        }
    }
    Repr::Table {
        high,
        leaves: leaves.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_ids::RuleId;
    use proptest::prelude::*;

    #[test]
    fn the_edges_of_a_range_belong_to_it() {
        let cell = Cell::allow(RuleId(20));
        let set = PortSet::new([PortRange {
            first: 80,
            last: 90,
            cell,
        }]);
        for (port, want) in [(79, Cell::DEFAULT), (80, cell), (90, cell), (91, Cell::DEFAULT)] {
            assert_eq!(set.get(port), want, "port {port}");
        }
        let all = PortSet::new([PortRange {
            first: 0,
            last: 65535,
            cell,
        }]);
        assert_eq!((all.get(0), all.get(65535)), (cell, cell));
    }

    proptest! {
        #[test]
        fn agrees_with_the_first_range_that_holds_the_port(
            ranges in prop::collection::vec((any::<u16>(), 0u16..3000, 16u32..20), 0..40),
        ) {
            let ranges: Vec<_> = ranges
                .iter()
                .map(|(first, span, rule)| PortRange {
                    first: *first,
                    last: first.saturating_add(*span),
                    cell: Cell::allow(RuleId(*rule)),
                })
                .collect();
            let set = PortSet::new(ranges.clone());
            let naive = |port: u16| {
                ranges.iter().find(|r| r.first <= port && port <= r.last).map_or(Cell::DEFAULT, |r| r.cell)
            };
            for port in ranges.iter().flat_map(|r| [r.first, r.last, r.first.wrapping_sub(1), r.last.wrapping_add(1)]) {
                prop_assert_eq!(set.get(port), naive(port));
            }
            let edges: std::collections::BTreeSet<u16> = set.edges().into_iter().collect();
            for port in 1..=u16::MAX {
                prop_assert!(set.get(port) == set.get(port - 1) || edges.contains(&port));
            }
        }
    }
}
