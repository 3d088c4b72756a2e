//! Generations: whom a change reaches.
//!
//! A flow entry stands for a connection that was allowed. So a change reaches an endpoint where something that its
//! policy allowed is allowed no more; that more is allowed ends no connection, and refused ones have no entry.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use heddle_tables::{Direction, EndpointId, EndpointPolicy, Generation, IdentityId, Place};

use crate::policy::identities::Identities;

/// The generation of each endpoint number, kept when the endpoint goes.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    now: BTreeMap<EndpointId, Generation>,
    raised: BTreeSet<EndpointId>,
}

impl Generations {
    /// The generation of a number.
    pub(crate) fn get(&self, id: EndpointId) -> Generation {
        self.now.get(&id).copied().unwrap_or_default()
    }

    /// Raises a generation, once a build.
    pub(crate) fn raise(&mut self, id: EndpointId) {
        if self.raised.insert(id) {
            let generation = self.now.entry(id).or_default();
            *generation = generation.next();
        }
    }

    /// Traffic that went to such a place goes elsewhere from now on.
    pub(crate) fn rerouted(&mut self, from: Place) {
        match from {
            Place::Host | Place::Outside => self.raise(EndpointId::HOST),
            Place::Node(_) | Place::RemoteHost(_) => self.raise(EndpointId::UPLINK),
            // An endpoint's own number is raised when it goes; nothing flows to nowhere.
            Place::Local(_) | Place::Unreachable => {}
        }
    }

    /// The numbers that were raised since the last call.
    pub(crate) fn take_raised(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.raised)
    }
}

/// What changed for policy in one build: pairs of the identity that addresses had and the one that they have.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Pairs between which every policy may differ.
    apart: HashSet<(IdentityId, IdentityId)>,
    /// Pairs of identities that the same selectors select: only policies with other rules than before may differ.
    alike: HashSet<(IdentityId, IdentityId)>,
}

impl Moves {
    /// The answers for an identity may have changed.
    pub(crate) fn note_changed(&mut self, identity: IdentityId) {
        self.apart.insert((identity, identity));
    }

    /// Addresses moved from one identity to another. To be told after all [changes](Self::note_changed).
    pub(crate) fn note(&mut self, before: IdentityId, after: IdentityId, identities: &Identities) {
        let alike = !self.apart.contains(&(before, before))
            && match (identities.get(before), identities.get(after)) {
                (Some(a), Some(b)) => a.matched == b.matched && a.ports() == b.ports(),
                _ => false,
            };
        let pairs = if alike { &mut self.alike } else { &mut self.apart };
        pairs.insert((before, after));
    }
}

/// Tells which policies refuse something that they allowed before; asked for each endpoint, answered once for
/// each pair of policies.
pub(crate) struct Reach<'a> {
    pub(crate) moves: &'a Moves,
    pub(crate) identities: &'a Identities,
    pub(crate) build: u64,
    pub(crate) asked: HashMap<(*const EndpointPolicy, *const EndpointPolicy), bool>,
}

impl Reach<'_> {
    /// Whether a connection that `before` allowed may be refused now. `same_rules`: both are of one
    /// group, so only cells that the moves name can differ.
    pub(crate) fn changed(
        &mut self,
        before: &Arc<EndpointPolicy>,
        after: &Arc<EndpointPolicy>,
        same_rules: bool,
    ) -> bool {
        let key = (Arc::as_ptr(before), Arc::as_ptr(after));
        if let Some(known) = self.asked.get(&key) {
            return *known;
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
                Some(mut apart) => apart.any(|id| self.identities.is_older(id, self.build) && differs(id)),
                None => self.identities.older_than(self.build).any(differs),
            }
        };
        let changed = self.moves.apart.iter().copied().any(differs)
            || !same_rules
                && (Direction::BOTH
                    .iter()
                    .any(|d| !before.side(*d).is_default_kept(after.side(*d)))
                    || self.moves.alike.iter().copied().any(differs)
                    || Direction::BOTH.iter().any(differs_in));
        self.asked.insert(key, changed);
        changed
    }
}
