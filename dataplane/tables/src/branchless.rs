//! A branch-free list of selected batch indices. A conditional branch here would cost a misprediction per packet, as much
//! as a lookup, because which packets are selected is unpredictable.

/// The number of lookups under way at once.
pub(crate) const LOOK_AHEAD: usize = 32;

/// SelectedIndices below [`LOOK_AHEAD`], in the order in which they were pushed.
#[derive(Clone, Copy, Default)]
pub(crate) struct SelectedIndices {
    at: [u8; LOOK_AHEAD],
    len: usize,
}

impl SelectedIndices {
    /// Adds an index if it `counts`. Keeps [`LOOK_AHEAD`] indices at most.
    #[inline]
    pub(crate) fn push_if(&mut self, place: usize, counts: bool) {
        self.at[self.len % LOOK_AHEAD] = place as u8;
        self.len += usize::from(counts);
    }

    /// Returns the selected indices.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.len).map(|i| usize::from(self.at[i % LOOK_AHEAD]) % LOOK_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_kept_in_order() {
        let mut places = SelectedIndices::default();
        for place in 0..LOOK_AHEAD {
            places.push_if(place, place % 3 == 1);
        }
        let want: Vec<usize> = (0..LOOK_AHEAD).filter(|place| place % 3 == 1).collect();
        assert_eq!(places.iter().collect::<Vec<_>>(), want);
        let mut all = SelectedIndices::default();
        (0..LOOK_AHEAD).for_each(|place| all.push_if(place, true));
        assert_eq!(all.iter().count(), LOOK_AHEAD);
    }
}
