//! A vector in `Arc` pages: cheap to clone, and a change copies one page and the root.
//!
//! Every index exists: an element that was never set reads as `T::default()`, and a page of defaults takes no memory of its own.
//! The root does not shrink.

use std::fmt;
use std::sync::Arc;

/// A persistent vector of pages with `N` elements each.
#[derive(Clone)]
pub struct PagedVec<T, const N: usize = 64> {
    root: Arc<Vec<Arc<[T; N]>>>,
    blank: Arc<[T; N]>,
    copied: u64,
}

impl<T: Clone + Default, const N: usize> PagedVec<T, N> {
    /// Returns a vector of defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            root: Arc::new(Vec::new()),
            blank: Arc::new(std::array::from_fn(|_| T::default())),
            copied: 0,
        }
    }

    /// Returns the element at `index`, or `None` beyond the last page.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.root.get(index / N)?.get(index % N)
    }

    /// Returns one past the greatest index for which [`get`](Self::get) returns an element.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.root.len() * N
    }

    /// Returns the element at `index` for writing. Copies its page if a snapshot shares it, and the root likewise.
    pub fn get_mut(&mut self, index: usize) -> &mut T {
        let (page, slot) = (index / N, index % N);
        if Arc::get_mut(&mut self.root).is_none() {
            self.copied += 1;
        }
        let root = Arc::make_mut(&mut self.root);
        if root.len() <= page {
            root.resize(page + 1, Arc::clone(&self.blank));
        }
        let page = &mut root[page];
        if Arc::get_mut(page).is_none() {
            self.copied += 1;
        }
        &mut Arc::make_mut(page)[slot]
    }

    /// Sets the element at `index` and returns the previous one. Copies nothing if it is equal.
    pub fn set(&mut self, index: usize, value: T) -> T
    where
        T: PartialEq,
    {
        let unchanged = match self.get(index) {
            Some(old) => *old == value,
            None => value == T::default(),
        };
        if unchanged {
            value
        } else {
            std::mem::replace(self.get_mut(index), value)
        }
    }

    /// Iterates over all elements up to the last page with their indices, including unset ones.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.root.iter().flat_map(|page| page.iter()).enumerate()
    }

    /// Returns the number of pages (roots included) copied since the last call, and resets it.
    pub fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied)
    }

    /// Iterates over the indices in pages that this vector does not share with `other`: all other elements are equal.
    pub fn unshared(&self, other: &Self) -> impl Iterator<Item = usize> {
        let pages = self.root.len().max(other.root.len());
        let apart = move |page: &usize| match (self.root.get(*page), other.root.get(*page)) {
            (Some(a), Some(b)) => !Arc::ptr_eq(a, b),
            _ => true,
        };
        (0..pages).filter(apart).flat_map(|page| page * N..(page + 1) * N)
    }

    /// Returns the number of pages that this vector shares with `other`, and the number that it has.
    #[must_use]
    pub fn shared_pages(&self, other: &Self) -> (usize, usize) {
        let shared = self
            .root
            .iter()
            .zip(other.root.iter())
            .filter(|(a, b)| Arc::ptr_eq(a, b))
            .count();
        (shared, self.root.len())
    }
}

impl<T: Clone + Default, const N: usize> Default for PagedVec<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Default + PartialEq, const N: usize> PartialEq for PagedVec<T, N> {
    fn eq(&self, other: &Self) -> bool {
        let blank = T::default();
        let same = |(a, b): (&Arc<[T; N]>, &Arc<[T; N]>)| Arc::ptr_eq(a, b) || a == b;
        let common = self.root.len().min(other.root.len());
        self.root.iter().zip(other.root.iter()).all(same)
            && self.root[common..]
                .iter()
                .chain(&other.root[common..])
                .all(|p| p.iter().all(|e| *e == blank))
    }
}

impl<T: Clone + Default + fmt::Debug, const N: usize> fmt::Debug for PagedVec<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_change_copies_one_page_and_the_root() {
        let mut v: PagedVec<u32, 16> = PagedVec::new();
        for i in 0..1000 {
            v.set(i, i as u32);
        }
        let old = v.clone();
        v.take_copied();
        v.set(500, 7);
        assert_eq!(v.take_copied(), 2);
        v.set(501, 8);
        assert_eq!(v.take_copied(), 0, "the page is this vector's own by now");
        assert_eq!((old.get(500), v.get(500)), (Some(&500), Some(&7)));
        let (shared, all) = v.shared_pages(&old);
        assert_eq!(shared + 1, all);
        assert_eq!(v.unshared(&old).collect::<Vec<_>>(), (496..512).collect::<Vec<_>>());
        v.set(1010, 1);
        assert_eq!(v.unshared(&old).last(), Some(1023), "what only one has is not shared");
    }

    #[test]
    fn setting_an_equal_value_copies_nothing() {
        let mut v: PagedVec<u32, 16> = PagedVec::new();
        v.set(3, 1);
        let _held = v.clone();
        v.take_copied();
        v.set(3, 1);
        v.set(100_000, 0);
        assert_eq!((v.take_copied(), v.capacity()), (0, 16));
    }

    proptest! {
        #[test]
        fn behaves_like_a_vector_with_snapshots(ops in prop::collection::vec((0usize..300, 0u8..4, any::<bool>()), 0..200)) {
            let mut naive = vec![0u8; 300];
            let mut paged: PagedVec<u8, 8> = PagedVec::new();
            let mut held = Vec::new();
            for (index, value, snapshot) in ops {
                if snapshot {
                    held.push((naive.clone(), paged.clone()));
                }
                naive[index] = value;
                paged.set(index, value);
            }
            held.push((naive, paged));
            for (naive, paged) in held {
                for (i, v) in naive.iter().enumerate() {
                    prop_assert_eq!(paged.get(i).copied().unwrap_or(0), *v);
                }
            }
        }
    }
}
