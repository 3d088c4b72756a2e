//! Assigns rule ids: identifiers of decisions, which are policy rules, default denials and denials by refused policies.
//!
//! Equal decisions share one identifier, and an identifier never changes its meaning: the rings of recent drops and the
//! counters of workers still contain it after the policy changed or was deleted. A decision that can deny keeps its name
//! for a while after its last use.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use heddle_tables::{Provenance, RuleId, SnapshotBuilder};

/// The maximum number of unused identifiers that keep their names.
const RETIRED: usize = 4096;

/// The identifiers in use, with their reference counts.
#[derive(Debug)]
pub(crate) struct RuleIds {
    known: HashMap<Arc<Provenance>, (RuleId, u32)>,
    names: HashMap<RuleId, Arc<Provenance>>,
    /// Unused identifiers that still have a name, the oldest first.
    retired: VecDeque<RuleId>,
    next: u32,
}

impl Default for RuleIds {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            names: HashMap::new(),
            retired: VecDeque::new(),
            next: RuleId::FIRST_POLICY.0,
        }
    }
}

/// Returns true if a drop can name this decision. Rules of NetworkPolicies only allow.
const fn can_deny(decision: &Provenance) -> bool {
    !matches!(decision, Provenance::Rule { .. })
}

impl RuleIds {
    /// Returns the identifier of a decision and counts one more use of it.
    pub(crate) fn acquire(&mut self, decision: Provenance, tables: &mut SnapshotBuilder) -> RuleId {
        if let Some((id, uses)) = self.known.get_mut(&decision) {
            *uses += 1;
            return *id;
        }
        let id = self.next_unused(tables);
        let decision = Arc::new(decision);
        self.known.insert(Arc::clone(&decision), (id, 1));
        self.names.insert(id, Arc::clone(&decision));
        tables.set_provenance(id, Some(decision));
        id
    }

    /// Returns an identifier without a name. After half a billion the counter wraps around and skips identifiers that have
    /// one.
    fn next_unused(&mut self, tables: &SnapshotBuilder) -> RuleId {
        loop {
            let id = RuleId(self.next);
            self.next = if id >= RuleId::MAX {
                RuleId::FIRST_POLICY.0
            } else {
                id.0 + 1
            };
            if tables.current().provenance(id).is_none() {
                return id;
            }
        }
    }

    /// Counts one use less. The last one removes the decision, or retires it if a drop can name it.
    pub(crate) fn release(&mut self, id: RuleId, tables: &mut SnapshotBuilder) {
        let Some(decision) = self.names.get(&id) else {
            return;
        };
        let Some((_, uses)) = self.known.get_mut(decision) else {
            return;
        };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        let keeps_name = can_deny(decision);
        self.known.remove(decision);
        self.names.remove(&id);
        if !keeps_name {
            tables.set_provenance(id, None);
            return;
        }
        self.retired.push_back(id);
        if self.retired.len() > RETIRED
            && let Some(oldest) = self.retired.pop_front()
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
    fn an_identifier_never_changes_its_meaning() {
        let (mut rules, mut tables) = (RuleIds::default(), SnapshotBuilder::new());
        let first = rules.acquire(deny("first"), &mut tables);
        assert_eq!(rules.acquire(deny("first"), &mut tables), first);
        rules.release(first, &mut tables);
        assert_eq!(rules.acquire(deny("first"), &mut tables), first, "still in use");
        rules.release(first, &mut tables);
        rules.release(first, &mut tables);
        // No policy has it any more, but earlier drops are still named.
        assert_eq!(tables.current().provenance(first).as_deref(), Some(&deny("first")));
        assert_ne!(rules.acquire(deny("first"), &mut tables), first);
        for n in 0..RETIRED {
            let id = rules.acquire(deny(&format!("p{n}")), &mut tables);
            assert_ne!(id, first);
            rules.release(id, &mut tables);
        }
        assert_eq!(tables.current().provenance(first), None, "removed, not renamed");
    }

    #[test]
    fn identifiers_of_allow_rules_are_freed_at_once() {
        let (mut rules, mut tables) = (RuleIds::default(), SnapshotBuilder::new());
        let denies = rules.acquire(deny("p"), &mut tables);
        rules.release(denies, &mut tables);
        for n in 0..2 * RETIRED as u32 {
            let id = rules.acquire(allow(n), &mut tables);
            rules.release(id, &mut tables);
            assert_eq!(tables.current().provenance(id), None);
        }
        assert_eq!(tables.current().provenance(denies).as_deref(), Some(&deny("p")));
    }

    #[test]
    fn after_half_a_billion_identifiers_the_used_ones_are_skipped() {
        let (mut rules, mut tables) = (RuleIds::default(), SnapshotBuilder::new());
        let kept = rules.acquire(deny("kept"), &mut tables);
        rules.next = RuleId::MAX.0;
        assert_eq!(rules.acquire(deny("last"), &mut tables), RuleId::MAX);
        assert_eq!(rules.acquire(deny("next"), &mut tables), RuleId(kept.0 + 1));
    }
}
