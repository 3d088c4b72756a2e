//! A policy table's smallest unit: one verdict in 32 bits.

use std::fmt;
use std::hint::select_unpredictable;

use heddle_ids::RuleId;

/// A policy's verdict on a connection, and the rule that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PolicyVerdict {
    /// Allowed by that rule.
    Allow(RuleId),
    /// Denied by that rule or by a default denial.
    Deny(RuleId),
}

impl PolicyVerdict {
    /// Returns true if the connection is allowed.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// Returns the rule that decided.
    #[must_use]
    pub const fn rule(self) -> RuleId {
        match self {
            Self::Allow(rule) | Self::Deny(rule) => rule,
        }
    }
}

/// A verdict in 32 bits: the default, allowed or denied by a rule, or the number of a row of port rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Cell(u32);

impl Cell {
    /// No rule matches: the direction's default applies.
    pub const DEFAULT: Self = Self(0);
    pub(crate) const ALLOW: u32 = 1 << 30;
    pub(crate) const DENY: u32 = 2 << 30;
    pub(crate) const ROW: u32 = 3 << 30;
    /// The rule spares the endpoint itself.
    const SPARES_ITSELF: u32 = 1 << 29;
    const NUMBER: u32 = (1 << 29) - 1;
    const KIND: u32 = 3 << 30;

    /// Allowed by `rule`.
    #[must_use]
    pub const fn allow(rule: RuleId) -> Self {
        Self(Self::ALLOW | rule.0 & Self::NUMBER)
    }

    /// Denied by `rule`.
    #[must_use]
    pub const fn deny(rule: RuleId) -> Self {
        Self(Self::DENY | rule.0 & Self::NUMBER)
    }

    /// Denied by `rule`, unless the peer is the endpoint itself.
    #[must_use]
    pub const fn deny_others(rule: RuleId) -> Self {
        Self(Self::DENY | Self::SPARES_ITSELF | rule.0 & Self::NUMBER)
    }

    pub(crate) const fn row(row: u32) -> Self {
        Self(Self::ROW | row & Self::NUMBER)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0 & Self::NUMBER
    }

    pub(crate) const fn kind(self) -> u32 {
        self.0 & Self::KIND
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) const fn is_row(self) -> bool {
        self.kind() == Self::ROW
    }

    /// Returns this cell, or `other` if no rule matches, or only a rule that spares the endpoint itself, which the peer is.
    /// Branch-free, because a branch here would be unpredictable.
    #[inline]
    pub(crate) fn or_unless(self, itself: bool, other: Self) -> Self {
        let is_spared = itself & (self.0 & Self::SPARES_ITSELF != 0);
        select_unpredictable((self == Self::DEFAULT) | is_spared, other, self)
    }

    /// Returns this cell, or `other` if no rule matches.
    #[inline]
    pub(crate) fn or(self, other: Self) -> Self {
        self.or_unless(false, other)
    }

    /// Returns the verdict of a cell that names no row; the default cell denies.
    #[inline]
    pub(crate) fn verdict(self) -> PolicyVerdict {
        let rule = RuleId(self.number());
        let allowed = self.kind() == Self::ALLOW;
        select_unpredictable(allowed, PolicyVerdict::Allow(rule), PolicyVerdict::Deny(rule))
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Self::ALLOW => write!(f, "allow({})", self.number()),
            Self::DENY if self.0 & Self::SPARES_ITSELF != 0 => write!(f, "deny_others({})", self.number()),
            Self::DENY => write!(f, "deny({})", self.number()),
            Self::ROW => write!(f, "row({})", self.number()),
            _ => f.write_str("default"),
        }
    }
}
