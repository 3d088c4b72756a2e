//! Finds the policies that refuse something that they allowed before.
//!
//! A flow entry stands for a connection that was allowed. So only a change that takes something away concerns live
//! connections: a policy that allows more ends none, and a refused connection has no entry.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use heddle_tables::{Direction, EndpointPolicy, IdentityId};

use crate::policy::identities::Identities;

/// The changes of one rebuild that can change verdicts: pairs of an identity that addresses had and the identity that
/// they have.
#[derive(Debug, Default)]
pub(crate) struct IdentityChanges {
    /// Pairs whose verdicts may differ under every policy.
    different: HashSet<(IdentityId, IdentityId)>,
    /// Pairs that the same selectors match: their verdicts differ only under policies whose rules changed.
    alike: HashSet<(IdentityId, IdentityId)>,
}

impl IdentityChanges {
    /// Records that the verdicts for an identity may have changed.
    pub(crate) fn record_changed(&mut self, identity: IdentityId) {
        self.different.insert((identity, identity));
    }

    /// Records that addresses moved from one identity to another. Call it after all calls of
    /// [`record_changed`](Self::record_changed).
    pub(crate) fn record_move(&mut self, before: IdentityId, after: IdentityId, identities: &Identities) {
        let alike = !self.different.contains(&(before, before))
            && match (identities.get(before), identities.get(after)) {
                (Some(a), Some(b)) => a.matched == b.matched && a.ports == b.ports,
                _ => false,
            };
        let pairs = if alike { &mut self.alike } else { &mut self.different };
        pairs.insert((before, after));
    }
}

/// Compares policies before and after a rebuild. Many endpoints have the same pair of policies, so answers are cached.
pub(crate) struct PolicyComparison<'a> {
    changes: &'a IdentityChanges,
    identities: &'a Identities,
    rebuild: u64,
    answers: HashMap<(*const EndpointPolicy, *const EndpointPolicy), bool>,
}

impl<'a> PolicyComparison<'a> {
    pub(crate) fn new(changes: &'a IdentityChanges, identities: &'a Identities, rebuild: u64) -> Self {
        Self {
            changes,
            identities,
            rebuild,
            answers: HashMap::new(),
        }
    }

    /// Returns true if `after` may refuse a connection that `before` allowed. `same_rules`: both are of one group, so only
    /// the cells of changed identities can differ.
    pub(crate) fn refuses_more(
        &mut self,
        before: &Arc<EndpointPolicy>,
        after: &Arc<EndpointPolicy>,
        same_rules: bool,
    ) -> bool {
        let key = (Arc::as_ptr(before), Arc::as_ptr(after));
        if let Some(answer) = self.answers.get(&key) {
            return *answer;
        }
        let differs = |(a, b): (IdentityId, IdentityId)| {
            Direction::BOTH
                .iter()
                .any(|d| !before.side(*d).is_kept(a, after.side(*d), b))
        };
        let differs_in = |d: &Direction| {
            let (before, after) = (before.side(*d), after.side(*d));
            let differs = |id: IdentityId| !before.is_kept(id, after, id);
            match before.differing_peers(after) {
                // One was made from the other: only the cells on pages that they do not share can differ.
                Some(mut peers) => peers.any(|id| self.identities.is_older(id, self.rebuild) && differs(id)),
                None => self.identities.older_than(self.rebuild).any(differs),
            }
        };
        let refuses_more = self.changes.different.iter().copied().any(differs)
            || !same_rules
                && (Direction::BOTH
                    .iter()
                    .any(|d| !before.side(*d).is_default_kept(after.side(*d)))
                    || self.changes.alike.iter().copied().any(differs)
                    || Direction::BOTH.iter().any(differs_in));
        self.answers.insert(key, refuses_more);
        refuses_more
    }
}
