//! The builder of one direction of a policy. It stores equal rows once and changes only the cells that are set.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use heddle_ids::{IdentityId, RuleId};

use crate::port_rules::PackedPortRules;
use crate::{Cell, PolicySide, PortRules};

/// The verdicts for one identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerRules {
    /// The verdict for identities without verdicts of their own: see [`PolicySideBuilder::set_base`].
    Default,
    /// One verdict for every protocol and port.
    Every(Cell),
    /// Verdicts by protocol and port.
    Ports(Box<PortRules>),
}

/// A builder of a [`PolicySide`], which changes it in place. Clones of the side share all unchanged pages.
#[derive(Clone, Debug)]
pub struct PolicySideBuilder {
    side: PolicySide,
    /// The numbers of the rows in `side.rows`, by the rows' hashes: the rows themselves are stored once.
    known: HashTable<u32>,
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl PolicySideBuilder {
    /// Returns a builder of a side that allows everything: see [`PolicySide::open`].
    #[must_use]
    pub fn open() -> Self {
        Self::from(PolicySide::open())
    }

    /// Returns a builder of a side that denies everything by `rule`: see [`PolicySide::isolated`].
    #[must_use]
    pub fn isolated(rule: RuleId) -> Self {
        Self::from(PolicySide::isolated(rule))
    }

    fn from(side: PolicySide) -> Self {
        Self {
            side,
            known: HashTable::new(),
            uses: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Sets the verdicts for an identity and returns true if they changed.
    pub fn set(&mut self, peer: IdentityId, answer: PeerRules) -> bool {
        let before = self.side.cells.get(peer.index()).copied().unwrap_or_default();
        let cell = self.cell(answer);
        if before == cell {
            return false;
        }
        self.side.cells.set(peer.index(), cell);
        self.exchange(before, cell);
        true
    }

    /// Sets the verdicts for an identity to the ones of another identity, and returns true if they changed.
    pub fn set_like(&mut self, peer: IdentityId, other: IdentityId) -> bool {
        let of = |id: IdentityId| self.side.cells.get(id.index()).copied().unwrap_or_default();
        let (before, cell) = (of(peer), of(other));
        if before == cell {
            return false;
        }
        self.side.cells.set(peer.index(), cell);
        self.exchange(before, cell);
        true
    }

    /// Sets the verdicts for all identities without verdicts of their own. [`PeerRules::Default`] is then the side's default.
    pub fn set_base(&mut self, answer: PeerRules) {
        let before = self.side.base;
        let cell = self.cell(answer);
        if before != cell {
            self.side.base = cell;
            self.exchange(before, cell);
        }
    }

    fn cell(&mut self, answer: PeerRules) -> Cell {
        match answer {
            PeerRules::Default => Cell::DEFAULT,
            PeerRules::Every(cell) => cell,
            PeerRules::Ports(row) => Cell::row(self.row(PackedPortRules::from(&*row))),
        }
    }

    /// Counts the cells with a row, and frees a row without cells.
    fn exchange(&mut self, before: Cell, after: Cell) {
        if after.kind() == Cell::ROW {
            self.uses[after.number() as usize] += 1;
        }
        if before.kind() == Cell::ROW {
            self.release(before.number());
        }
    }

    /// Returns the number of a row. A new row gets a number with a use count of zero.
    fn row(&mut self, row: PackedPortRules) -> u32 {
        let (hash, rows) = (row_hash(&row), &self.side.rows);
        let is_row = |number: &u32| rows.get(*number as usize) == Some(&row);
        if let Some(number) = self.known.find(hash, is_row) {
            return *number;
        }
        let number = self.free.pop().unwrap_or(self.uses.len() as u32);
        if number as usize == self.uses.len() {
            self.uses.push(0);
        }
        self.side.rows.set(number as usize, row);
        let rows = &self.side.rows;
        // The rehash reads the rows of the numbers in the table, which are all in `rows`.
        let hash_of = |number: &u32| rows.get(*number as usize).map_or(0, row_hash);
        self.known.insert_unique(hash, number, hash_of);
        number
    }

    fn release(&mut self, number: u32) {
        let uses = &mut self.uses[number as usize];
        *uses -= 1;
        if *uses == 0 {
            let row = self.side.rows.set(number as usize, PackedPortRules::default());
            if let Ok(entry) = self.known.find_entry(row_hash(&row), |known| *known == number) {
                entry.remove();
            }
            self.free.push(number);
        }
    }

    /// Returns the current side.
    #[must_use]
    pub const fn side(&self) -> &PolicySide {
        &self.side
    }

    /// Returns the number of pages copied since the last call, and resets it.
    pub fn take_copied(&mut self) -> u64 {
        self.side.cells.take_copied() + self.side.rows.take_copied()
    }
}

/// Hashes a row. The hash has no seed, because rows come from policies and not from packets.
fn row_hash(row: &PackedPortRules) -> u64 {
    FixedState::with_seed(0).hash_one(row)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{PolicyVerdict, PortRange, PortSet};
    use heddle_wire::Proto;
    use proptest::prelude::*;

    fn tcp(port: u16, rule: u32) -> PortRules {
        tcp_cell(port, Cell::allow(RuleId(rule)))
    }

    fn tcp_cell(port: u16, cell: Cell) -> PortRules {
        PortRules {
            tcp: PortSet::new([PortRange {
                first: port,
                last: port,
                cell,
            }]),
            ..PortRules::default()
        }
    }

    #[test]
    fn the_default_holds_where_no_rule_speaks() {
        let deny = RuleId(40);
        let mut side = PolicySideBuilder::isolated(deny);
        side.set(IdentityId(3), PeerRules::Every(Cell::allow(RuleId(41))));
        side.set(IdentityId(700), PeerRules::Ports(Box::new(tcp(80, 42))));
        let ask = |who, proto, port| side.side().verdict(IdentityId(who), proto, port);
        assert_eq!(ask(3, Proto::ICMP, 0), PolicyVerdict::Allow(RuleId(41)));
        assert_eq!(ask(4, Proto::TCP, 80), PolicyVerdict::Deny(deny));
        assert_eq!(ask(700, Proto::TCP, 80), PolicyVerdict::Allow(RuleId(42)));
        assert!(side.set_like(IdentityId(5), IdentityId(700)) && !side.set_like(IdentityId(5), IdentityId(700)));
        side.set(IdentityId(700), PeerRules::Default);
        let ask = |who, proto, port| side.side().verdict(IdentityId(who), proto, port);
        assert_eq!(ask(5, Proto::TCP, 80), PolicyVerdict::Allow(RuleId(42)));
        side.set_like(IdentityId(700), IdentityId(5));
        let ask = |who, proto, port| side.side().verdict(IdentityId(who), proto, port);
        assert_eq!(ask(700, Proto::TCP, 81), PolicyVerdict::Deny(deny));
        assert_eq!(ask(700, Proto::UDP, 80), PolicyVerdict::Deny(deny));
        assert_eq!(ask(700, Proto::ICMP, 0), PolicyVerdict::Deny(deny));
        assert_eq!(ask(1_000_000, Proto::TCP, 80), PolicyVerdict::Deny(deny));
        assert_eq!(
            PolicySide::open().verdict(IdentityId(9), Proto::UDP, 53),
            PolicyVerdict::Allow(RuleId::NO_POLICY)
        );
    }

    #[test]
    fn a_cell_of_its_own_replaces_the_base() {
        let mut side = PolicySideBuilder::isolated(RuleId(40));
        side.set_base(PeerRules::Ports(Box::new(tcp(53, 50))));
        side.set(IdentityId(1), PeerRules::Ports(Box::new(tcp(80, 51))));
        let ask = |who, port| side.side().verdict(IdentityId(who), Proto::TCP, port);
        assert_eq!(
            (ask(2, 53), ask(2, 80)),
            (PolicyVerdict::Allow(RuleId(50)), PolicyVerdict::Deny(RuleId(40)))
        );
        assert_eq!(
            (ask(1, 53), ask(1, 80)),
            (PolicyVerdict::Deny(RuleId(40)), PolicyVerdict::Allow(RuleId(51)))
        );
    }

    #[test]
    fn a_change_keeps_or_ends_allowed_connections() {
        let mut a = PolicySideBuilder::isolated(RuleId(40));
        a.set_base(PeerRules::Ports(Box::new(tcp(53, 50))));
        a.set(IdentityId(1), PeerRules::Ports(Box::new(tcp(80, 51))));
        a.set(IdentityId(2), PeerRules::Every(Cell::allow(RuleId(52))));
        a.set(IdentityId(3), PeerRules::Every(Cell::deny(RuleId(53))));
        let mut b = PolicySideBuilder::isolated(RuleId(41));
        let both = PortSet::new([52, 80].map(|p| PortRange {
            first: p,
            last: p + 1,
            cell: Cell::allow(RuleId(60)),
        }));
        b.set(
            IdentityId(1),
            PeerRules::Ports(Box::new(PortRules {
                tcp: both,
                ..PortRules::default()
            })),
        );
        b.set(IdentityId(2), PeerRules::Every(Cell::allow(RuleId(61))));
        let kept = |who, other| a.side().is_kept(IdentityId(who), b.side(), IdentityId(other));
        // Compared with some ports, everything and nothing.
        assert_eq!([kept(1, 1), kept(1, 2), kept(1, 9)], [true, true, false]);
        assert_eq!([kept(2, 1), kept(2, 2), kept(2, 9)], [false, true, false]);
        assert_eq!([kept(3, 1), kept(3, 2), kept(3, 9)], [true, true, true]);
        assert_eq!([kept(9, 1), kept(9, 2), kept(9, 9)], [true, true, false]);
        assert!(!b.side().is_kept(IdentityId(1), a.side(), IdentityId(1)));
        assert!(!a.side().is_default_kept(b.side()) && b.side().is_default_kept(a.side()));
        assert!(!PolicySide::open().is_default_kept(a.side()) && a.side().is_default_kept(&PolicySide::open()));
    }

    #[test]
    fn a_rule_that_denies_ends_the_connections_of_an_isolated_pod_with_itself() {
        let isolated = PolicySideBuilder::isolated(RuleId(40));
        let mut denied = isolated.clone();
        denied.set(IdentityId(1), PeerRules::Every(Cell::deny(RuleId(50))));
        let mut by_port = isolated.clone();
        let deny = tcp_cell(80, Cell::deny(RuleId(50)));
        by_port.set(IdentityId(1), PeerRules::Ports(Box::new(deny)));
        let kept = |before: &PolicySideBuilder, after: &PolicySideBuilder| {
            before.side().is_kept(IdentityId(1), after.side(), IdentityId(1))
        };
        for side in [&denied, &by_port] {
            assert!(!kept(&isolated, side) && kept(side, &isolated) && kept(side, side));
        }
        assert!(
            kept(&denied, &by_port) && !kept(&by_port, &denied),
            "other ports than 80"
        );
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_answers(
            ops in prop::collection::vec((0u32..40, 0u16..5, 0u8..3), 0..200),
        ) {
            let mut side = PolicySideBuilder::isolated(RuleId(99));
            let mut naive: HashMap<u32, PeerRules> = HashMap::new();
            for (who, port, kind) in ops {
                let answer = match kind {
                    0 => PeerRules::Default,
                    1 => PeerRules::Every(Cell::deny(RuleId(100 + u32::from(port)))),
                    _ => PeerRules::Ports(Box::new(tcp(port, 200 + u32::from(port)))),
                };
                let before = naive.insert(who, answer.clone()).unwrap_or(PeerRules::Default);
                prop_assert_eq!(side.set(IdentityId(who), answer.clone()), before != answer);
            }
            for who in 0..40 {
                for port in 0..5 {
                    let want = match naive.get(&who) {
                        None | Some(PeerRules::Default) => PolicyVerdict::Deny(RuleId(99)),
                        Some(PeerRules::Every(c)) => PolicyVerdict::Deny(RuleId(c.number())),
                        Some(PeerRules::Ports(row)) if **row == tcp(port, 200 + u32::from(port)) => {
                            PolicyVerdict::Allow(RuleId(200 + u32::from(port)))
                        }
                        Some(PeerRules::Ports(_)) => PolicyVerdict::Deny(RuleId(99)),
                    };
                    prop_assert_eq!(side.side().verdict(IdentityId(who), Proto::TCP, port), want);
                }
            }
            let rows: std::collections::HashSet<_> =
                naive.values().filter_map(|a| if let PeerRules::Ports(r) = a { Some(r.clone()) } else { None }).collect();
            prop_assert_eq!(side.known.len(), rows.len(), "rows that nothing uses are gone");
        }
    }
}
