//! Counters by which old state is recognized.

use crate::newtype;

newtype!(
    /// Counts the changes after which a connection of an endpoint may be refused that was allowed before. A flow entry of another
    /// generation is revalidated.
    Generation(u32), "generation"
);
newtype!(
    /// Counts the takeovers of the flow table: an entry of another epoch was last evaluated by an earlier start of the
    /// agent.
    Epoch(u32), "epoch"
);

impl Generation {
    /// Returns the next generation. It wraps.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl Epoch {
    /// The epoch of a new table, which was not taken over.
    pub const FIRST: Self = Self(1);

    /// Returns the next epoch. It wraps.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_up_by_one_and_wrap() {
        for (at, next) in [(0, 1), (1, 2), (u32::MAX - 1, u32::MAX), (u32::MAX, 0)] {
            assert_eq!(Generation(at).next(), Generation(next));
            assert_eq!(Epoch(at).next(), Epoch(next));
        }
    }
}
