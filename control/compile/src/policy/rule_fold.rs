//! Folds the rules that match one peer, in evaluation order, into one answer per protocol and port.
//!
//! Within a tier the first matching rule decides. A rule with the action "Pass" ends its tier for the ports that it
//! matches, and the next tier is evaluated for them.

use std::mem;

use heddle_model::Protocol;
use heddle_tables::{Cell, PeerRules, PortRange, PortRules, PortSet, RuleId, first_wins};

use crate::policy::rule::{Effect, EvaluationTier, Rule};

/// Port ranges by protocol: TCP, UDP, SCTP, and all others together. The others have no ports, so their list has one
/// range.
type Lists = [Vec<PortRange>; 4];
const OTHER: usize = 3;

/// Marks ports that the next tier decides. No rule makes this value, because a denial always names its rule.
const PASS: Cell = Cell::deny(RuleId::NO_POLICY);

/// The rules folded so far.
#[derive(Debug, Default)]
pub(crate) struct RuleFold {
    /// Ranges of the earlier tiers.
    earlier: Lists,
    /// Ranges of the current tier, passes included.
    current: Lists,
    tier: Option<EvaluationTier>,
    /// True if a rule of the current tier passes.
    passes: bool,
    /// True if the current tier has a rule for all ports, so that its later rules decide nothing.
    complete: bool,
}

impl RuleFold {
    /// Returns true if no later rule, of this tier or the next ones, can decide anything.
    pub(crate) const fn is_decided(&self) -> bool {
        self.complete && !self.passes
    }

    /// Adds a rule for every port of every protocol.
    pub(crate) fn add_all_ports(&mut self, tier: EvaluationTier, rule: &Rule) {
        self.enter_tier(tier);
        if self.complete {
            return;
        }
        let cell = self.cell(tier, rule);
        for list in &mut self.current {
            list.push(PortRange {
                first: 0,
                last: u16::MAX,
                cell,
            });
        }
        self.complete = true;
    }

    /// Adds a rule for a range of ports.
    pub(crate) fn add_ports(&mut self, tier: EvaluationTier, rule: &Rule, protocol: Protocol, first: u16, last: u16) {
        self.enter_tier(tier);
        if self.complete {
            return;
        }
        let cell = self.cell(tier, rule);
        self.current[slot(protocol)].push(PortRange { first, last, cell });
    }

    fn cell(&mut self, tier: EvaluationTier, rule: &Rule) -> Cell {
        match rule.effect {
            Effect::Allow => Cell::allow(rule.id),
            // A pod reaches itself whatever this tier says.
            Effect::Deny if tier == EvaluationTier::Baseline => Cell::deny_others(rule.id),
            Effect::Deny => Cell::deny(rule.id),
            Effect::Pass => {
                self.passes = true;
                PASS
            }
        }
    }

    /// Ends the current tier if `tier` is another one.
    fn enter_tier(&mut self, tier: EvaluationTier) {
        if self.tier == Some(tier) {
            return;
        }
        self.tier = Some(tier);
        self.complete = false;
        let passes = mem::take(&mut self.passes);
        for (earlier, current) in self.earlier.iter_mut().zip(mem::take(&mut self.current)) {
            if passes {
                // A pass hides later rules of its own tier. So the first match is found with the passes included, and
                // they are removed afterwards.
                earlier.extend(first_wins(current).into_iter().filter(|range| range.cell != PASS));
            } else {
                earlier.extend(current);
            }
        }
    }

    /// Returns the answer of all rules together.
    pub(crate) fn finish(mut self) -> PeerRules {
        // Forces the end of the current tier, even if it is the last one.
        self.tier = None;
        self.enter_tier(EvaluationTier::Baseline);
        let flat = self.earlier.map(first_wins);
        if flat.iter().all(Vec::is_empty) {
            return PeerRules::Default;
        }
        // One cell for all ports and protocols needs no row.
        if let [[tcp], [udp], [sctp], [other]] = flat.each_ref().map(Vec::as_slice)
            && (tcp.first, tcp.last) == (0, u16::MAX)
            && [udp, sctp, other] == [tcp; 3]
        {
            return PeerRules::Every(tcp.cell);
        }
        let other = flat[OTHER].first().map_or(Cell::DEFAULT, |range| range.cell);
        let [tcp, udp, sctp, _] = flat.map(PortSet::new);
        PeerRules::Ports(Box::new(PortRules { tcp, udp, sctp, other }))
    }
}

const fn slot(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: u32, effect: Effect) -> Rule {
        Rule {
            id: RuleId(id),
            effect,
            everyone: false,
            peers: Vec::new(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn the_next_tier_decides_the_ports_that_a_tier_passes() {
        let mut fold = RuleFold::default();
        fold.add_ports(EvaluationTier::Admin, &rule(20, Effect::Pass), Protocol::Tcp, 80, 80);
        fold.add_all_ports(EvaluationTier::Admin, &rule(21, Effect::Deny));
        assert!(!fold.is_decided());
        fold.add_all_ports(EvaluationTier::Namespaced, &rule(22, Effect::Allow));
        let PeerRules::Ports(row) = fold.finish() else { panic!() };
        let cells = [79, 80, 81].map(|port| row.tcp.get(port));
        assert_eq!(
            cells,
            [21, 22, 21]
                .map(RuleId)
                .map(|id| if id.0 == 22 { Cell::allow(id) } else { Cell::deny(id) })
        );
        assert_eq!(
            (row.udp.get(80), row.other),
            (Cell::deny(RuleId(21)), Cell::deny(RuleId(21)))
        );
    }

    #[test]
    fn a_single_verdict_for_all_ports_needs_no_list() {
        let mut fold = RuleFold::default();
        fold.add_ports(EvaluationTier::Admin, &rule(20, Effect::Pass), Protocol::Udp, 1, 9);
        fold.add_all_ports(EvaluationTier::Namespaced, &rule(22, Effect::Allow));
        assert!(fold.is_decided());
        assert_eq!(fold.finish(), PeerRules::Every(Cell::allow(RuleId(22))));
        let mut fold = RuleFold::default();
        fold.add_all_ports(EvaluationTier::Baseline, &rule(22, Effect::Pass));
        assert_eq!(fold.finish(), PeerRules::Default);
    }
}
