//! An endpoint's compiled policy: the verdict for (direction, identity of the peer, protocol, port) in constant time.
//!
//! For each direction there is one [`Cell`] per identity, in pages. Most cells contain the verdict. If it depends on protocol and
//! port, the cell contains the number of a row of port rules, and equal rows are stored once. The cost of a lookup does not depend
//! on the number of policies and rules.

use std::hint::select_unpredictable;

use heddle_ids::{IdentityId, RuleId};
use heddle_wire::Proto;

use crate::port_rules::{PackedPortRules, WITH_PORTS};
use crate::{Cell, Direction, PagedVec, PolicyVerdict};

/// One direction of an endpoint's policy, as workers read it. A [`PolicySideBuilder`](crate::PolicySideBuilder) makes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySide {
    /// The verdict if no rule matches; never a row.
    pub(crate) default: Cell,
    /// The cell of peers without a cell of their own: the verdict of the rules for everyone.
    pub(crate) base: Cell,
    pub(crate) cells: PagedVec<Cell, 256>,
    pub(crate) rows: PagedVec<PackedPortRules, 16>,
}

impl PolicySide {
    /// Returns a direction that no policy isolates: it allows everything.
    #[must_use]
    pub fn open() -> Self {
        Self {
            default: Cell::allow(RuleId::NO_POLICY),
            ..Self::default()
        }
    }

    /// Returns a direction that denies, by `rule`, everything that no rule allows.
    #[must_use]
    pub fn isolated(rule: RuleId) -> Self {
        Self {
            default: Cell::deny(rule),
            ..Self::default()
        }
    }

    /// Returns the verdict for (peer, protocol, destination port). The peer is another endpoint.
    #[inline]
    #[must_use]
    pub fn verdict(&self, peer: IdentityId, proto: Proto, dst_port: u16) -> PolicyVerdict {
        self.verdict_on(peer, false, proto, dst_port)
    }

    /// Returns the verdict for (peer, protocol, destination port). `itself` is true if the peer is the endpoint itself.
    ///
    /// A pod's packets to itself reach the dataplane only through a Service. The tiers apply to them as follows:
    ///
    /// - Admin: as to any other peer. "A Pod connecting to a Service IP that the service proxy load-balances back to the same
    ///   Pod is subject to ClusterNetworkPolicy" (network-policy-api, API overview, pull request 390).
    /// - NetworkPolicy: allowed, because "a pod cannot block access to itself" (Kubernetes, concepts, Network Policies). Cilium
    ///   (pull request 15321) and OVN-Kubernetes (pull request 3500) do the same behind a Service.
    /// - Baseline: never. The NetworkPolicies' answer, that a pod reaches itself, is given before this tier. The conformance case
    ///   `generated/open-1-004` expects it. The compiler marks these rules ([`Cell::deny_others`]).
    #[inline]
    pub(crate) fn verdict_on(&self, peer: IdentityId, itself: bool, proto: Proto, dst_port: u16) -> PolicyVerdict {
        // A NetworkPolicy has no rules that deny. It denies by the side's default alone, so every denial in a cell is of a
        // ClusterNetworkPolicy.
        let default = select_unpredictable(itself, Cell::allow(RuleId::SELF), self.default);
        let cell = self.cell(peer);
        let cell = if cell.is_row() {
            self.in_row(cell, proto, dst_port)
        } else {
            cell
        };
        cell.or_unless(itself, default).verdict()
    }

    /// Returns the verdict in the row of a cell.
    #[inline]
    pub(crate) fn in_row(&self, cell: Cell, proto: Proto, dst_port: u16) -> Cell {
        self.row(cell).map_or(Cell::DEFAULT, |row| row.get(proto, dst_port))
    }

    #[inline]
    pub(crate) fn cell(&self, peer: IdentityId) -> Cell {
        let cell = self.cells.get(peer.index()).copied().unwrap_or_default();
        cell.or(self.base)
    }

    /// Returns the row of a cell, if it has one.
    #[inline]
    fn row(&self, cell: Cell) -> Option<&PackedPortRules> {
        if !cell.is_row() {
            return None;
        }
        self.rows.get(cell.number() as usize)
    }

    /// Returns true if `other` allows `other_peer` everything that this side allows `peer`, as another endpoint or as the
    /// endpoint itself. Then a change from this side to `other` ends no connection. Control uses it. Several endpoints share a
    /// side, so every peer counts as the possible endpoint itself.
    #[must_use]
    pub fn is_kept(&self, peer: IdentityId, other: &Self, other_peer: IdentityId) -> bool {
        let allows = |side: &Self, proto, port, who| {
            [false, true].map(|itself| side.verdict_on(who, itself, proto, port).is_allowed())
        };
        let is_subset = |before: [bool; 2], after: [bool; 2]| before.into_iter().zip(after).all(|(b, a)| !b || a);
        let simple = |side: &Self, who| {
            let cell = side.cell(who);
            (!cell.is_row()).then(|| allows(side, Proto(u8::MAX), 0, who))
        };
        match (simple(self, peer), simple(other, other_peer)) {
            (Some([false, false]), _) | (_, Some([true, true])) => return true,
            (Some(before), Some(after)) => return is_subset(before, after),
            _ => {}
        }
        let (mine, theirs) = (self.row(self.cell(peer)), other.row(other.cell(other_peer)));
        if mine.is_some() && mine == theirs && self.default_allows() == other.default_allows() {
            return true;
        }
        let kept = |proto, port| is_subset(allows(self, proto, port, peer), allows(other, proto, port, other_peer));
        let edges = |proto| {
            let rows = [mine, theirs];
            let mut edges: Vec<u16> = rows.into_iter().flatten().flat_map(|row| row.edges(proto)).collect();
            edges.push(0);
            edges
        };
        let ports = |proto| edges(proto).into_iter().all(|port| kept(proto, port));
        WITH_PORTS.into_iter().all(ports) && kept(Proto::ICMP, 0)
    }

    /// Returns the peers whose verdicts may differ between two sides with the same default and base. Returns `None` if default or
    /// base differ, because then the verdict for any peer may. If one side was built from the other, the peers are
    /// few.
    #[must_use]
    pub fn differing_peers<'a>(&'a self, other: &'a Self) -> Option<impl Iterator<Item = IdentityId> + 'a> {
        // A row's number means the same row on both sides, except in cells that were set again and are therefore unshared.
        let alike = self.default == other.default && self.base == other.base;
        let apart = move || self.cells.unshared(&other.cells).map(|index| IdentityId(index as u32));
        alike.then(apart)
    }

    /// Returns the same as [`is_kept`](Self::is_kept) for peers without a cell.
    #[must_use]
    pub fn is_default_kept(&self, other: &Self) -> bool {
        // No table has a cell for the last number.
        self.is_kept(IdentityId(u32::MAX), other, IdentityId(u32::MAX))
    }

    fn default_allows(&self) -> bool {
        self.default.kind() == Cell::ALLOW
    }
}

/// The compiled policy of one endpoint, or of several that the same policies select.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointPolicy {
    sides: [PolicySide; 2],
}

impl EndpointPolicy {
    /// Returns the policy of two directions.
    #[must_use]
    pub const fn new(ingress: PolicySide, egress: PolicySide) -> Self {
        Self {
            sides: [ingress, egress],
        }
    }

    /// Returns a policy that allows everything: the policy of an endpoint that no policy selects.
    #[must_use]
    pub fn open() -> Self {
        Self::new(PolicySide::open(), PolicySide::open())
    }

    /// Returns one direction.
    #[inline]
    #[must_use]
    pub const fn side(&self, direction: Direction) -> &PolicySide {
        &self.sides[direction.index()]
    }
}
