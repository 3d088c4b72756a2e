//! The time that changes take.

use serde::{Deserialize, Serialize};

/// The times from the receipt of changes of objects to the moment at which every worker has tables with them: a histogram
/// since the agent's start. Changes that need no other tables, and the objects of the start, are not in it. Changes that
/// arrive together count once, from the receipt of the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeTimes {
    /// The number of changes.
    pub count: u64,
    /// The sum of all times, in microseconds.
    pub sum_micros: u64,
    /// The upper bound of each class in microseconds, and the number of changes that took at most that long. Slower ones are
    /// in `count` alone.
    pub up_to_micros: Vec<(u64, u64)>,
}

impl ChangeTimes {
    /// Returns the bound in microseconds that a share of all changes, from 0 to 1, kept; `None` without changes, or if the share
    /// has slower ones than any class.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "counts far below 2^52, and a share that is positive"
        )]
        let needed = (self.count as f64 * share).ceil() as u64;
        let class = self.up_to_micros.iter().find(|(_, count)| *count >= needed);
        class.filter(|_| self.count > 0).map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_class() {
        let times = ChangeTimes {
            count: 100,
            sum_micros: 0,
            up_to_micros: vec![(1000, 50), (2000, 98), (4000, 99)],
        };
        assert_eq!(times.quantile(0.5), Some(1000));
        assert_eq!(times.quantile(0.51), Some(2000));
        assert_eq!(times.quantile(0.99), Some(4000));
        assert_eq!(times.quantile(1.0), None);
        assert_eq!(ChangeTimes::default().quantile(0.5), None);
    }
}
