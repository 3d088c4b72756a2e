//! The CIDRs that active policies name, `except` included, and which of them covers an address most closely.
//!
//! Prefixes are nested or disjoint, so the longest one that covers an address says which others do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use heddle_tables::{IdentityId, Prefix};
use heddle_wire::Ip;
use ipnet::IpNet;

/// A model's network as a prefix. `None` for IPv6 networks within the IPv4-mapped range: no packet carries such an
/// address.
pub(crate) fn prefix(net: IpNet) -> Option<Prefix> {
    let addr = Ip::from(net.network());
    let family = matches!(net, IpNet::V4(_)) == addr.is_v4();
    family.then(|| Prefix::new(addr, net.prefix_len()))
}

/// Policy CIDRs with the identities of the outside addresses in them.
#[derive(Debug, Default)]
pub(crate) struct Cidrs {
    wanted: HashMap<Prefix, u32>,
    live: HashMap<Prefix, IdentityId>,
    /// How many live prefixes there are of each (family, length): IPv4 is `true`.
    lengths: BTreeMap<(bool, u8), u32>,
    touched: BTreeSet<Prefix>,
}

impl Cidrs {
    /// One more policy names it.
    pub(crate) fn acquire(&mut self, prefix: Prefix) {
        let uses = self.wanted.entry(prefix).or_default();
        *uses += 1;
        if *uses == 1 {
            self.touched.insert(prefix);
        }
    }

    /// One less policy names it.
    pub(crate) fn release(&mut self, prefix: Prefix) {
        if let Some(uses) = self.wanted.get_mut(&prefix) {
            *uses -= 1;
            if *uses == 0 {
                self.wanted.remove(&prefix);
                self.touched.insert(prefix);
            }
        }
    }

    /// The prefixes to add and to take out now.
    pub(crate) fn take_touched(&mut self) -> (Vec<Prefix>, Vec<Prefix>) {
        let touched = std::mem::take(&mut self.touched);
        let changed = touched
            .into_iter()
            .filter(|p| self.wanted.contains_key(p) != self.live.contains_key(p));
        changed.partition(|p| self.wanted.contains_key(p))
    }

    /// Makes a prefix live, with the identity of its outside addresses.
    pub(crate) fn add(&mut self, prefix: Prefix, identity: IdentityId) {
        self.live.insert(prefix, identity);
        *self.lengths.entry((prefix.is_v4(), prefix.len())).or_default() += 1;
    }

    /// Takes a live prefix out.
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

    /// The live prefixes that cover `inner`, itself included, the longest first.
    pub(crate) fn covering(&self, inner: Prefix) -> impl Iterator<Item = (Prefix, IdentityId)> {
        let v4 = inner.is_v4();
        let lengths = self.lengths.range((v4, 0)..=(v4, inner.len())).rev();
        lengths.filter_map(move |((_, len), _)| {
            let prefix = Prefix::new(inner.addr(), *len);
            self.live.get(&prefix).map(|identity| (prefix, *identity))
        })
    }

    /// The longest live prefix that covers an address.
    pub(crate) fn longest(&self, addr: Ip) -> Option<Prefix> {
        self.covering(Prefix::host(addr)).next().map(|(prefix, _)| prefix)
    }

    /// The identity of outside addresses that no prefix longer than `inner` covers.
    pub(crate) fn outside(&self, inner: Prefix) -> IdentityId {
        self.covering(inner)
            .next()
            .map_or(IdentityId::OUTSIDE, |(_, identity)| identity)
    }
}
