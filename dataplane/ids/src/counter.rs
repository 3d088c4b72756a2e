//! Counters that show whether a flow entry is older than the current tables or the current start of the agent.

use crate::newtype;

newtype!(
    /// A count of those changes to an endpoint's tables after which an allowed connection may be refused. A flow entry of another
    /// generation is revalidated.
    Generation(u32), "generation"
);
newtype!(
    /// A count of the takeovers of the flow table. An entry of another epoch was last evaluated before the agent's latest start.
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
