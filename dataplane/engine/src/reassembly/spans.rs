//! The received octet ranges of a datagram: finds overlaps and duplicates, and detects that the datagram is complete.

use arrayvec::ArrayVec;

/// The most fragments of a datagram. Cut for an MTU of 576, which every host accepts (RFC 791), the largest one has 119.
pub(super) const MOST: usize = 128;

/// Octets of a datagram's payload, from `start` to before `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    start: u16,
    end: u16,
}

/// The relation of a fragment to the ones that were received before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fits {
    /// The fragment is new and was added.
    New,
    /// The fragment is an exact duplicate.
    Again,
    /// The fragment overlaps another one, lies beyond the datagram's end, or contradicts that end.
    Overlaps,
    /// The datagram has [`MOST`] fragments already.
    TooMany,
}

/// The received ranges of a datagram, sorted and without overlaps.
#[derive(Debug)]
pub(super) struct Spans {
    seen: ArrayVec<Span, MOST>,
    octets: u32,
    /// The datagram's length, once its last fragment was received.
    end: Option<u16>,
}

impl Spans {
    pub(super) const fn new() -> Self {
        Self {
            seen: ArrayVec::new_const(),
            octets: 0,
            end: None,
        }
    }

    /// Removes all ranges and the end.
    pub(super) fn clear(&mut self) {
        self.seen.clear();
        self.octets = 0;
        self.end = None;
    }

    /// Adds a fragment of at least one octet. `last` is true for the last fragment of the datagram.
    pub(super) fn add(&mut self, start: u16, end: u16, last: bool) -> Fits {
        // The only span that can be equal or overlap from below: the first that does not end before this one starts.
        let at = self.seen.partition_point(|span| span.end <= start);
        match self.seen.get(at) {
            Some(span) if *span == (Span { start, end }) => {
                return if last == (self.end == Some(end)) {
                    Fits::Again
                } else {
                    Fits::Overlaps
                };
            }
            Some(span) if span.start < end => return Fits::Overlaps,
            _ => {}
        }
        // There is one end, and nothing lies behind it.
        let beyond = match self.end {
            Some(whole) => last || end >= whole,
            None => last && at < self.seen.len(),
        };
        if beyond {
            return Fits::Overlaps;
        }
        if self.seen.try_insert(at, Span { start, end }).is_err() {
            return Fits::TooMany;
        }
        self.octets += u32::from(end.saturating_sub(start));
        if last {
            self.end = Some(end);
        }
        Fits::New
    }

    /// Removes a fragment that was added, because it was not kept. Its retransmission is new then.
    pub(super) fn remove(&mut self, start: u16, end: u16, last: bool) {
        let at = self.seen.partition_point(|span| span.end <= start);
        if self.seen.get(at) != Some(&Span { start, end }) {
            return;
        }
        self.seen.remove(at);
        self.octets -= u32::from(end.saturating_sub(start));
        if last {
            self.end = None;
        }
    }

    /// Returns true if every octet was received.
    pub(super) fn are_all(&self) -> bool {
        self.end.is_some_and(|end| self.octets == u32::from(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn added(list: &[(u16, u16, bool)]) -> (Spans, Vec<Fits>) {
        let mut spans = Spans::new();
        let fits = list.iter().map(|(a, b, last)| spans.add(*a, *b, *last)).collect();
        (spans, fits)
    }

    #[test]
    fn fragments_in_any_order_make_a_datagram() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let parts = [(0, 1480, false), (1480, 2960, false), (2960, 3000, true)];
            let mut spans = Spans::new();
            for (n, part) in order.into_iter().enumerate() {
                assert!(!spans.are_all());
                let (a, b, last) = parts[part];
                assert_eq!(spans.add(a, b, last), Fits::New, "{order:?} at {n}");
            }
            assert!(spans.are_all());
        }
    }

    #[test]
    fn overlaps_are_found_wherever_they_are() {
        let seen = [(16, 32, false), (48, 64, false)];
        for (part, fits) in [
            ((0, 16, false), Fits::New),
            ((32, 48, false), Fits::New),
            ((64, 72, true), Fits::New),
            ((16, 32, false), Fits::Again),
            ((16, 24, false), Fits::Overlaps),
            ((24, 32, false), Fits::Overlaps),
            ((8, 24, false), Fits::Overlaps),
            ((24, 40, false), Fits::Overlaps),
            ((8, 72, false), Fits::Overlaps),
            ((40, 56, false), Fits::Overlaps),
            // A last fragment before a received one, or equal to one that is not the last.
            ((32, 40, true), Fits::Overlaps),
            ((48, 64, true), Fits::Overlaps),
        ] {
            let mut list = seen.to_vec();
            list.push(part);
            assert_eq!(added(&list).1[2], fits, "{part:?}");
        }
    }

    #[test]
    fn a_datagram_has_one_end() {
        let end = (1000, 1100, true);
        for (part, fits) in [
            ((1100, 1108, false), Fits::Overlaps),
            ((2000, 2010, true), Fits::Overlaps),
            ((992, 1000, true), Fits::Overlaps),
            ((1000, 1100, true), Fits::Again),
            ((1000, 1100, false), Fits::Overlaps),
            ((992, 1000, false), Fits::New),
        ] {
            assert_eq!(added(&[end, part]).1[1], fits, "{part:?}");
        }
    }

    #[test]
    fn a_datagram_has_at_most_128_fragments() {
        let mut spans = Spans::new();
        for n in 0..MOST as u16 {
            assert_eq!(spans.add(n * 16, n * 16 + 8, false), Fits::New);
        }
        assert_eq!(spans.add(8, 16, false), Fits::TooMany);
        assert_eq!(spans.add(0, 8, false), Fits::Again);
    }

    proptest! {
        /// Compares the spans with an array that has an element for each octet.
        #[test]
        fn spans_agree_with_a_map_of_octets(parts in prop::collection::vec((0_u16..20, 1_u16..6, any::<bool>()), 1..24)) {
            let mut spans = Spans::new();
            let mut map = [None; 32];
            let (mut ends, mut most) = (None, 0);
            for (n, (start, len, last)) in parts.into_iter().enumerate() {
                let (a, b) = (usize::from(start), usize::from(start + len));
                let same = map[a..b].iter().all(|o| *o == Some((a, b, last)));
                let free = map[a..b].iter().all(Option::is_none);
                let fits = match ends {
                    Some(end) => !last && b < end,
                    None => !last || b >= most,
                };
                let expected = if same {
                    Fits::Again
                } else if free && fits {
                    Fits::New
                } else {
                    Fits::Overlaps
                };
                prop_assert_eq!(spans.add(start, start + len, last), expected, "{}", n);
                if expected == Fits::New {
                    map[a..b].fill(Some((a, b, last)));
                    most = most.max(b);
                    if last {
                        ends = Some(b);
                    }
                }
                let all = ends.is_some_and(|end| map[..end].iter().all(Option::is_some));
                prop_assert_eq!(spans.are_all(), all);
            }
        }
    }
}
