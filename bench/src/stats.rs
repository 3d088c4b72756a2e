//! Medians, ranges and percentiles.

/// Returns the median, or 0 of an empty series.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
        (Some(upper), 0) => (sorted.get(sorted.len() / 2 - 1).unwrap_or(upper) + upper) / 2.0,
        (Some(middle), _) => *middle,
        (None, _) => 0.0,
    }
}

/// Returns the least and the greatest value, or zeroes of an empty series.
#[must_use]
pub fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().min_by(f64::total_cmp).unwrap_or_default();
    (least, values.iter().copied().max_by(f64::total_cmp).unwrap_or_default())
}

/// Returns the percentile `share` (0 to 1) of sorted values by nearest rank, or the default of an empty series.
#[must_use]
pub fn percentile<T: Copy + Default>(sorted: &[T], share: f64) -> T {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.max(1) - 1).or(sorted.last());
    value.copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 5.0, 7.0]), 6.0);
    }

    #[test]
    fn percentiles_are_values_of_the_series() {
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!(
            [0.0, 0.5, 0.99, 0.999, 1.0].map(|p| percentile(&values, p)),
            [1, 500, 990, 999, 1000]
        );
        assert_eq!(percentile::<u64>(&[], 0.5), 0);
        assert_eq!(percentile(&[7], 0.999), 7);
    }

    #[test]
    fn a_range_holds_every_value() {
        assert_eq!(range(&[2.0, -1.0, 4.0]), (-1.0, 4.0));
        assert_eq!(range(&[]), (0.0, 0.0));
    }
}
