//! Doubly linked lists over the indices of an array. The table of datagrams keeps its entries in them, in the order of time.

/// The index that stands for no entry.
pub(super) const NONE: u16 = u16::MAX;

/// The links of all entries, as (previous, next). An entry is in one list at most.
#[derive(Debug)]
pub(super) struct Links(Box<[(u16, u16)]>);

impl Links {
    pub(super) fn new(places: u16) -> Self {
        Self((0..places).map(|_| (NONE, NONE)).collect())
    }

    fn set_previous(&mut self, place: u16, previous: u16) {
        if let Some(link) = self.0.get_mut(usize::from(place)) {
            link.0 = previous;
        }
    }

    fn set_next(&mut self, place: u16, next: u16) {
        if let Some(link) = self.0.get_mut(usize::from(place)) {
            link.1 = next;
        }
    }

    /// Returns the entry that follows in the list, or `NONE`.
    pub(super) fn next(&self, place: u16) -> u16 {
        self.0.get(usize::from(place)).map_or(NONE, |link| link.1)
    }
}

/// A list, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u16,
    last: u16,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    /// Returns the oldest entry, or `NONE`.
    pub(super) const fn first(&self) -> u16 {
        self.first
    }

    /// Returns the newest entry, or `NONE`.
    pub(super) const fn last(&self) -> u16 {
        self.last
    }

    /// Appends an entry that is in no list.
    pub(super) fn push(&mut self, links: &mut Links, place: u16) {
        links.set_previous(place, self.last);
        links.set_next(place, NONE);
        if self.last == NONE {
            self.first = place;
        } else {
            links.set_next(self.last, place);
        }
        self.last = place;
    }

    /// Removes an entry that is in this list.
    pub(super) fn remove(&mut self, links: &mut Links, place: u16) {
        let Some(&(previous, next)) = links.0.get(usize::from(place)) else {
            return;
        };
        if previous == NONE {
            self.first = next;
        } else {
            links.set_next(previous, next);
        }
        if next == NONE {
            self.last = previous;
        } else {
            links.set_previous(next, previous);
        }
    }

    /// Returns the oldest entry for which `fits` returns true.
    #[cfg(test)]
    pub(super) fn find(&self, links: &Links, mut fits: impl FnMut(u16) -> bool) -> Option<u16> {
        let mut place = self.first;
        while place != NONE {
            if fits(place) {
                return Some(place);
            }
            place = links.next(place);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn all(list: &List, links: &Links) -> Vec<u16> {
        let mut places = Vec::new();
        list.find(links, |place| {
            places.push(place);
            false
        });
        places
    }

    proptest! {
        /// Compares two lists with two `VecDeque`s, which are searched.
        #[test]
        fn a_list_keeps_the_order(steps in prop::collection::vec((0_u16..12, any::<bool>()), 0..200)) {
            let mut links = Links::new(12);
            let mut lists = [(List::EMPTY, VecDeque::new()), (List::EMPTY, VecDeque::new())];
            for (place, which) in steps {
                let here = lists.iter().position(|(_, model)| model.contains(&place));
                if let Some(here) = here {
                    lists[here].0.remove(&mut links, place);
                    lists[here].1.retain(|p| *p != place);
                }
                if here != Some(usize::from(which)) {
                    lists[usize::from(which)].0.push(&mut links, place);
                    lists[usize::from(which)].1.push_back(place);
                }
                for (list, model) in &lists {
                    prop_assert!(all(list, &links).iter().eq(model));
                    prop_assert_eq!(list.first(), model.front().copied().unwrap_or(NONE));
                    prop_assert_eq!(list.last(), model.back().copied().unwrap_or(NONE));
                }
            }
        }
    }
}
