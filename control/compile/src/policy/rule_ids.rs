//! Numbers for what can decide. Equal decisions have one number, and a number means one decision for good: rings of recent
//! drops and counters of workers still name it when the policy has changed or is gone. What can deny keeps its name for a
//! while then.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use heddle_tables::{Provenance, RuleId, SnapshotBuilder};

/// How many numbers that nobody uses any more keep their names.
const REST: usize = 4096;

/// The numbers in use.
#[derive(Debug)]
pub(crate) struct Rules {
    known: HashMap<Arc<Provenance>, (RuleId, u32)>,
    names: HashMap<RuleId, Arc<Provenance>>,
    resting: VecDeque<RuleId>,
    next: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            names: HashMap::new(),
            resting: VecDeque::new(),
            next: RuleId::FIRST_POLICY.0,
        }
    }
}

/// Whether a packet can have been dropped by it: rules of network policies only allow.
const fn can_deny(decision: &Provenance) -> bool {
    !matches!(decision, Provenance::Rule { .. })
}

impl Rules {
    /// The number of a decision, used once more.
    pub(crate) fn acquire(&mut self, decision: Provenance, tables: &mut SnapshotBuilder) -> RuleId {
        if let Some((number, uses)) = self.known.get_mut(&decision) {
            *uses += 1;
            return *number;
        }
        let number = self.fresh(tables);
        let decision = Arc::new(decision);
        self.known.insert(Arc::clone(&decision), (number, 1));
        self.names.insert(number, Arc::clone(&decision));
        tables.set_provenance(number, Some(decision));
        number
    }

    /// A number that means nothing. There are a billion: only then they begin anew, with those that have no name.
    fn fresh(&mut self, tables: &SnapshotBuilder) -> RuleId {
        loop {
            let number = RuleId(self.next);
            self.next = if number >= RuleId::MAX {
                RuleId::FIRST_POLICY.0
            } else {
                number.0 + 1
            };
            if tables.current().provenance(number).is_none() {
                return number;
            }
        }
    }

    /// A number is used once less.
    pub(crate) fn release(&mut self, number: RuleId, tables: &mut SnapshotBuilder) {
        let Some(decision) = self.names.get(&number) else {
            return;
        };
        let Some((_, uses)) = self.known.get_mut(decision) else {
            return;
        };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        let rests = can_deny(decision);
        self.known.remove(decision);
        self.names.remove(&number);
        if !rests {
            tables.set_provenance(number, None);
            return;
        }
        self.resting.push_back(number);
        if self.resting.len() > REST
            && let Some(oldest) = self.resting.pop_front()
        {
            tables.set_provenance(oldest, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_tables::{Direction, PolicyKind};

    use super::*;

    fn deny(name: &str) -> Provenance {
        Provenance::DefaultDeny {
            namespace: "a".into(),
            name: name.into(),
            direction: Direction::Ingress,
        }
    }

    fn allow(rule: u32) -> Provenance {
        Provenance::Rule {
            kind: PolicyKind::NetworkPolicy,
            namespace: "a".into(),
            name: "p".into(),
            direction: Direction::Ingress,
            rule,
        }
    }

    #[test]
    fn a_number_never_means_something_else() {
        let (mut rules, mut tables) = (Rules::default(), SnapshotBuilder::new());
        let first = rules.acquire(deny("first"), &mut tables);
        assert_eq!(rules.acquire(deny("first"), &mut tables), first);
        rules.release(first, &mut tables);
        assert_eq!(rules.acquire(deny("first"), &mut tables), first, "still in use");
        rules.release(first, &mut tables);
        rules.release(first, &mut tables);
        // Gone from the policies; drops from before are still named.
        assert_eq!(tables.current().provenance(first).as_deref(), Some(&deny("first")));
        assert_ne!(rules.acquire(deny("first"), &mut tables), first);
        for n in 0..REST {
            let number = rules.acquire(deny(&format!("p{n}")), &mut tables);
            assert_ne!(number, first);
            rules.release(number, &mut tables);
        }
        assert_eq!(tables.current().provenance(first), None, "forgotten, not renamed");
    }

    #[test]
    fn what_only_allows_is_forgotten_at_once() {
        let (mut rules, mut tables) = (Rules::default(), SnapshotBuilder::new());
        let denies = rules.acquire(deny("p"), &mut tables);
        rules.release(denies, &mut tables);
        for n in 0..2 * REST as u32 {
            let number = rules.acquire(allow(n), &mut tables);
            rules.release(number, &mut tables);
            assert_eq!(tables.current().provenance(number), None);
        }
        assert_eq!(tables.current().provenance(denies).as_deref(), Some(&deny("p")));
    }

    #[test]
    fn after_a_billion_numbers_those_in_use_are_left_out() {
        let (mut rules, mut tables) = (Rules::default(), SnapshotBuilder::new());
        let kept = rules.acquire(deny("kept"), &mut tables);
        rules.next = RuleId::MAX.0;
        assert_eq!(rules.acquire(deny("last"), &mut tables), RuleId::MAX);
        assert_eq!(rules.acquire(deny("next"), &mut tables), RuleId(kept.0 + 1));
    }
}
