//! What rules say of one class of peers, taken in the order in which they are asked, and made into one answer.
//!
//! Within a tier the first rule that matches decides. "Pass" decides too, for the rest of its tier alone: there the next
//! tier is asked.

use std::mem;

use heddle_model::Protocol;
use heddle_tables::{Cell, PeerRules, PortRange, PortRules, PortSet, RuleId, first_wins};

use crate::policy::policies::{Effect, Rule, Tier};

/// By protocol: TCP, UDP, SCTP, and all others (which have no ports: one range stands for all of them).
type Lists = [Vec<PortRange>; 4];
const OTHER: usize = 3;

/// Stands for "the next tier decides". No rule has this cell: nothing is denied by no policy.
const PASS: Cell = Cell::deny(RuleId::NO_POLICY);

/// What has been said so far.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// By tiers that are over.
    before: Lists,
    /// By the tier that speaks, passes included.
    now: Lists,
    tier: Option<Tier>,
    passes: bool,
    /// The tier that speaks leaves nothing open to later rules of its own.
    complete: bool,
}

impl Said {
    /// Whether nothing is left for later rules to say, of this tier and of the next ones.
    pub(crate) const fn is_settled(&self) -> bool {
        self.complete && !self.passes
    }

    /// A rule speaks of every port and protocol.
    pub(crate) fn everything(&mut self, tier: Tier, rule: &Rule) {
        self.turn_to(tier);
        if self.complete {
            return;
        }
        let cell = self.cell(rule);
        for list in &mut self.now {
            list.push(PortRange {
                first: 0,
                last: u16::MAX,
                cell,
            });
        }
        self.complete = true;
    }

    /// A rule speaks of a range of ports.
    pub(crate) fn ports(&mut self, tier: Tier, rule: &Rule, protocol: Protocol, first: u16, last: u16) {
        self.turn_to(tier);
        if self.complete {
            return;
        }
        let cell = self.cell(rule);
        self.now[slot(protocol)].push(PortRange { first, last, cell });
    }

    fn cell(&mut self, rule: &Rule) -> Cell {
        match rule.effect {
            Effect::Allow => Cell::allow(rule.number),
            Effect::Deny => Cell::deny(rule.number),
            Effect::Pass => {
                self.passes = true;
                PASS
            }
        }
    }

    /// Ends the tier that spoke, if another one does now.
    fn turn_to(&mut self, tier: Tier) {
        if self.tier == Some(tier) {
            return;
        }
        self.tier = Some(tier);
        self.complete = false;
        let passes = mem::take(&mut self.passes);
        for (before, now) in self.before.iter_mut().zip(mem::take(&mut self.now)) {
            if passes {
                before.extend(first_wins(now).into_iter().filter(|range| range.cell != PASS));
            } else {
                before.extend(now);
            }
        }
    }

    /// All of it together.
    pub(crate) fn answer(mut self) -> PeerRules {
        // Nobody speaks after the last tier.
        self.tier = None;
        self.turn_to(Tier::Baseline);
        let flat = self.before.map(first_wins);
        if flat.iter().all(Vec::is_empty) {
            return PeerRules::Default;
        }
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

    fn rule(number: u32, effect: Effect) -> Rule {
        Rule {
            number: RuleId(number),
            effect,
            everyone: false,
            peers: Vec::new(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn what_a_tier_passes_the_next_one_decides() {
        let mut said = Said::default();
        said.ports(Tier::Admin, &rule(20, Effect::Pass), Protocol::Tcp, 80, 80);
        said.everything(Tier::Admin, &rule(21, Effect::Deny));
        assert!(!said.is_settled());
        said.everything(Tier::Namespaced, &rule(22, Effect::Allow));
        let PeerRules::Ports(row) = said.answer() else { panic!() };
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
    fn one_answer_for_everything_needs_no_row() {
        let mut said = Said::default();
        said.ports(Tier::Admin, &rule(20, Effect::Pass), Protocol::Udp, 1, 9);
        said.everything(Tier::Namespaced, &rule(22, Effect::Allow));
        assert!(said.is_settled());
        assert_eq!(said.answer(), PeerRules::Every(Cell::allow(RuleId(22))));
        let mut said = Said::default();
        said.everything(Tier::Baseline, &rule(22, Effect::Pass));
        assert_eq!(said.answer(), PeerRules::Default);
    }
}
