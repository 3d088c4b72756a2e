//! The shares of something limited, ranked by how much each uses: the largest one is found without a search.
//!
//! Shares that use equally much are in one list. A change moves a share from one list to another. The largest use is known; it
//! falls only as far as units are given back, so the steps down were paid for by the steps up.

use super::list::{Links, List, NONE};

/// The use of each share, and the shares by their use.
#[derive(Debug)]
pub(super) struct Ranking {
    used: Box<[u16]>,
    links: Links,
    /// The shares by use; those that use nothing are in no list.
    levels: Box<[List]>,
    most: u16,
}

impl Ranking {
    /// Makes a ranking of `shares` shares, which use at most `limit` each.
    pub(super) fn new(shares: u16, limit: u16) -> Self {
        Self {
            used: vec![0; usize::from(shares)].into(),
            links: Links::new(shares),
            levels: vec![List::EMPTY; usize::from(limit) + 1].into(),
            most: 0,
        }
    }

    /// Returns what a share uses.
    #[inline]
    pub(super) fn used(&self, share: u16) -> u16 {
        self.used.get(usize::from(share)).copied().unwrap_or(0)
    }

    /// Returns a share that uses the most, or `None` if no share uses anything.
    pub(super) fn largest(&self) -> Option<u16> {
        let largest = self.levels.get(usize::from(self.most))?.first();
        (largest != NONE).then_some(largest)
    }

    /// Adds to what a share uses.
    pub(super) fn add(&mut self, share: u16, amount: u16) {
        self.set(share, self.used(share).saturating_add(amount));
    }

    /// Subtracts from what a share uses.
    pub(super) fn subtract(&mut self, share: u16, amount: u16) {
        self.set(share, self.used(share).saturating_sub(amount));
    }

    fn set(&mut self, share: u16, now: u16) {
        let Some(used) = self.used.get_mut(usize::from(share)) else {
            return;
        };
        let before = std::mem::replace(used, now);
        if before > 0
            && let Some(level) = self.levels.get_mut(usize::from(before))
        {
            level.remove(&mut self.links, share);
        }
        if now > 0
            && let Some(level) = self.levels.get_mut(usize::from(now))
        {
            level.push(&mut self.links, share);
            self.most = self.most.max(now);
        }
        while self.most > 0 && self.largest().is_none() {
            self.most -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Compares the ranking with an array, which is searched.
        #[test]
        fn the_largest_share_is_found(steps in prop::collection::vec((0_u16..9, 0_u16..=20), 0..200)) {
            let mut ranking = Ranking::new(9, 20);
            let mut model = [0_u16; 9];
            for (share, used) in steps {
                let place = usize::from(share);
                if used > model[place] {
                    ranking.add(share, used - model[place]);
                } else {
                    ranking.subtract(share, model[place] - used);
                }
                model[place] = used;
                prop_assert!((0..9).all(|share| ranking.used(share) == model[usize::from(share)]));
                let most = model.iter().max().copied().filter(|most| *most > 0);
                prop_assert_eq!(ranking.largest().map(|share| model[usize::from(share)]), most);
            }
        }
    }
}
