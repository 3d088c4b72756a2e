//! An endpoint's compiled policy: the verdict for (direction, identity of the peer, protocol, port) in constant time.
//!
//! For each direction there is one [`Cell`] per identity, in pages; most cells are the answer already. Where it
//! depends on protocol and port, the cell names a [`PortRules`](crate::PortRules), and rows that are equal are one. How many policies and
//! rules the cells were made of makes no difference to the lookup.

use heddle_ids::{IdentityId, RuleId};
use heddle_wire::{Proto, simd};

use crate::port_rules::{PackedPortRules, WITH_PORTS};
use crate::{Cell, Direction, PagedVec, PolicyVerdict};

/// One direction of an endpoint's policy, as the workers read it. Made by a
/// [`PolicySideBuilder`](crate::PolicySideBuilder).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySide {
    /// What holds where no rule speaks; never a row.
    pub(crate) default: Cell,
    /// For peers without a cell of their own: what the rules for everyone say.
    pub(crate) base: Cell,
    pub(crate) cells: PagedVec<Cell, 256>,
    pub(crate) rows: PagedVec<PackedPortRules, 16>,
}

impl PolicySide {
    /// A direction that no policy isolates: all is allowed.
    #[must_use]
    pub fn open() -> Self {
        Self {
            default: Cell::allow(RuleId::NO_POLICY),
            ..Self::default()
        }
    }

    /// A direction in which what no rule allows is denied, by `rule`.
    #[must_use]
    pub fn isolated(rule: RuleId) -> Self {
        Self {
            default: Cell::deny(rule),
            ..Self::default()
        }
    }

    /// The verdict for (peer, protocol, destination port).
    #[inline]
    #[must_use]
    pub fn verdict(&self, peer: IdentityId, proto: Proto, dst_port: u16) -> PolicyVerdict {
        let cell = self.cell(peer);
        let cell = if cell.is_row() {
            self.in_row(cell, proto, dst_port)
        } else {
            cell
        };
        cell.or(self.default).verdict()
    }

    /// Fetches the cell of `peer`.
    #[inline]
    pub(crate) fn prefetch_cell(&self, peer: IdentityId) {
        self.cells.prefetch(peer.index());
    }

    /// Fetches the row that a cell names, if it names one.
    #[inline]
    pub(crate) fn prefetch_row(&self, cell: Cell) {
        if let Some(row) = self.row(cell) {
            simd::prefetch(row);
        }
    }

    /// What the row says that a cell names.
    #[inline]
    pub(crate) fn in_row(&self, cell: Cell, proto: Proto, dst_port: u16) -> Cell {
        self.row(cell).map_or(Cell::DEFAULT, |row| row.get(proto, dst_port))
    }

    #[inline]
    pub(crate) fn cell(&self, peer: IdentityId) -> Cell {
        let cell = self.cells.get(peer.index()).copied().unwrap_or_default();
        cell.or(self.base)
    }

    /// The row that a cell names, if it names one.
    #[inline]
    fn row(&self, cell: Cell) -> Option<&PackedPortRules> {
        if !cell.is_row() {
            return None;
        }
        self.rows.get(cell.number() as usize)
    }

    /// Whether all that this side allows `peer`, `other` allows `other_peer` too. For control: where it is so, a change
    /// from the one to the other ends no connection.
    #[must_use]
    pub fn is_kept(&self, peer: IdentityId, other: &Self, other_peer: IdentityId) -> bool {
        let allows = |side: &Self, proto, port, who| side.verdict(who, proto, port).is_allowed();
        let simple = |side: &Self, who| {
            let cell = side.cell(who);
            (!cell.is_row()).then(|| allows(side, Proto(u8::MAX), 0, who))
        };
        match (simple(self, peer), simple(other, other_peer)) {
            (Some(false), _) | (_, Some(true)) => return true,
            (Some(true), Some(false)) => return false,
            _ => {}
        }
        let (mine, theirs) = (self.row(self.cell(peer)), other.row(other.cell(other_peer)));
        if mine.is_some() && mine == theirs && self.default_allows() == other.default_allows() {
            return true;
        }
        let kept = |proto, port| !allows(self, proto, port, peer) || allows(other, proto, port, other_peer);
        let edges = |proto| {
            let rows = [mine, theirs];
            let mut edges: Vec<u16> = rows.into_iter().flatten().flat_map(|row| row.edges(proto)).collect();
            edges.push(0);
            edges
        };
        let ports = |proto| edges(proto).into_iter().all(|port| kept(proto, port));
        WITH_PORTS.into_iter().all(ports) && kept(Proto::ICMP, 0)
    }

    /// The peers whose answers may differ between two sides that have the same default and the same base; `None` where
    /// they have not: then anybody's may. Where one was made from the other, these are few.
    #[must_use]
    pub fn differing_peers<'a>(&'a self, other: &'a Self) -> Option<impl Iterator<Item = IdentityId> + 'a> {
        // A row's number means another row only in cells that were set again.
        let alike = self.default == other.default && self.base == other.base;
        let apart = move || self.cells.unshared(&other.cells).map(|index| IdentityId(index as u32));
        alike.then(apart)
    }

    /// The same for peers that no cell speaks of.
    #[must_use]
    pub fn is_default_kept(&self, other: &Self) -> bool {
        // No table has a cell for the last number.
        self.is_kept(IdentityId(u32::MAX), other, IdentityId(u32::MAX))
    }

    fn default_allows(&self) -> bool {
        self.default.kind() == Cell::ALLOW
    }
}

/// The compiled policy of one endpoint, or of several that are selected alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointPolicy {
    sides: [PolicySide; 2],
}

impl EndpointPolicy {
    /// From its two directions.
    #[must_use]
    pub const fn new(ingress: PolicySide, egress: PolicySide) -> Self {
        Self {
            sides: [ingress, egress],
        }
    }

    /// A policy that allows everything: of an endpoint that nothing selects.
    #[must_use]
    pub fn open() -> Self {
        Self::new(PolicySide::open(), PolicySide::open())
    }

    /// One direction.
    #[inline]
    #[must_use]
    pub const fn side(&self, direction: Direction) -> &PolicySide {
        &self.sides[direction.index()]
    }

    /// The verdict on a connection in `direction` (towards or from the endpoint) with `peer`, to `dst_port` of the
    /// side that accepts it. Constant time. [`Snapshot::judge`](crate::Snapshot::judge) adds what holds for every
    /// endpoint: its own node, itself, and "not ready".
    #[inline]
    #[must_use]
    pub fn verdict(&self, direction: Direction, peer: IdentityId, proto: Proto, dst_port: u16) -> PolicyVerdict {
        self.side(direction).verdict(peer, proto, dst_port)
    }
}
