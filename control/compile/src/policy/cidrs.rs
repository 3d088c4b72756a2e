//! The CIDRs that active policies name, `except` included, and the longest one that covers an address.
//!
//! Two prefixes are nested or disjoint. So the longest prefix that covers an address implies all others that do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use heddle_tables::{IdentityId, Prefix};
use heddle_wire::Ip;

/// Policy CIDRs, each with the identity of its outside addresses: the addresses in it that no pod and no node has.
///
/// A prefix is *wanted* as soon as a policy names it, and *live* once it has an identity. [`take_changed`] returns the
/// difference, and the rebuild makes these prefixes live or removes them.
///
/// [`take_changed`]: Self::take_changed
#[derive(Debug, Default)]
pub(crate) struct Cidrs {
    /// The number of selectors that name each prefix.
    wanted: HashMap<Prefix, u32>,
    live: HashMap<Prefix, IdentityId>,
    /// The number of live prefixes by family (IPv4 is `true`) and length.
    lengths: BTreeMap<(bool, u8), u32>,
    changed: BTreeSet<Prefix>,
}

impl Cidrs {
    /// Counts one more use of a prefix.
    pub(crate) fn acquire(&mut self, prefix: Prefix) {
        let uses = self.wanted.entry(prefix).or_default();
        *uses += 1;
        if *uses == 1 {
            self.changed.insert(prefix);
        }
    }

    /// Counts one use less.
    pub(crate) fn release(&mut self, prefix: Prefix) {
        if let Some(uses) = self.wanted.get_mut(&prefix) {
            *uses -= 1;
            if *uses == 0 {
                self.wanted.remove(&prefix);
                self.changed.insert(prefix);
            }
        }
    }

    /// Returns the prefixes to add and the prefixes to remove now.
    pub(crate) fn take_changed(&mut self) -> (Vec<Prefix>, Vec<Prefix>) {
        let changed = std::mem::take(&mut self.changed);
        let differing = changed
            .into_iter()
            .filter(|p| self.wanted.contains_key(p) != self.live.contains_key(p));
        differing.partition(|p| self.wanted.contains_key(p))
    }

    /// Makes a prefix live, with the identity of its outside addresses.
    pub(crate) fn add(&mut self, prefix: Prefix, identity: IdentityId) {
        self.live.insert(prefix, identity);
        *self.lengths.entry((prefix.is_v4(), prefix.len())).or_default() += 1;
    }

    /// Removes a live prefix and returns its identity.
    pub(crate) fn remove(&mut self, prefix: Prefix) -> Option<IdentityId> {
        let identity = self.live.remove(&prefix)?;
        let length = (prefix.is_v4(), prefix.len());
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
        Some(identity)
    }

    /// Returns the live prefixes that cover `inner`, itself included, the longest first.
    pub(crate) fn covering(&self, inner: Prefix) -> impl Iterator<Item = (Prefix, IdentityId)> {
        let v4 = inner.is_v4();
        let lengths = self.lengths.range((v4, 0)..=(v4, inner.len())).rev();
        lengths.filter_map(move |((_, len), _)| {
            let prefix = Prefix::new(inner.addr(), *len);
            self.live.get(&prefix).map(|identity| (prefix, *identity))
        })
    }

    /// Returns the longest live prefix that covers an address.
    pub(crate) fn longest(&self, addr: Ip) -> Option<Prefix> {
        self.covering(Prefix::host(addr)).next().map(|(prefix, _)| prefix)
    }

    /// Returns the identity of outside addresses whose longest live prefix is `inner` or, if `inner` is not live, the
    /// longest one that covers it.
    pub(crate) fn outside(&self, inner: Prefix) -> IdentityId {
        self.covering(inner)
            .next()
            .map_or(IdentityId::OUTSIDE, |(_, identity)| identity)
    }
}
