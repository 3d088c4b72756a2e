//! The table's invariants, which hold between any two calls. Tests check them.

use heddle_flow::Millis;

use super::{Datagrams, NONE, State};

impl Datagrams {
    /// Asserts that every datagram is in its bucket, its lists and its share, and in no other. Returns the held frames.
    pub(in super::super) fn check(&self) -> u32 {
        let mut shares = vec![0_u16; self.by_use.len()];
        let mut listed = Vec::new();
        for (list, waits) in [(&self.waiting, true), (&self.known, false)] {
            let mut due = Millis(0);
            list.find(&self.links, |place| {
                let datagram = &self.datagrams[usize::from(place)];
                assert!(datagram.used && matches!(datagram.state, State::Waiting) == waits);
                assert!(datagram.held.is_empty() || waits, "only what waits holds packets");
                assert!(due <= datagram.due, "in the order of time");
                due = datagram.due;
                assert_eq!(self.find(&datagram.key), Some(place));
                shares[usize::from(datagram.share)] += 1;
                listed.push(place);
                false
            });
        }
        let used = self.datagrams.iter().filter(|d| d.used).count();
        assert_eq!(listed.len(), used);
        assert_eq!(self.totals.datagrams, used as u64);
        let mut free = self.free;
        for _ in used..self.datagrams.len() {
            free = self.datagrams[usize::from(free)].next;
        }
        assert_eq!(free, NONE, "every place is used or free");
        for (share, datagrams) in (0_u16..).zip(&shares) {
            assert_eq!(self.shares.used(share), *datagrams);
            assert!(*datagrams <= self.config.datagrams_of_share());
            assert!(self.held.frames_of(share) <= u32::from(self.config.held_frames_of_share()));
            self.check_share(share);
        }
        let largest = |used: &dyn Fn(u16) -> u32| (0..shares.len() as u16).map(used).max();
        let of_largest = |share: Option<u16>, used: &dyn Fn(u16) -> u32| share.map_or(0, used);
        let datagrams_of = |share| u32::from(self.shares.used(share));
        assert_eq!(
            Some(of_largest(self.shares.largest(), &datagrams_of)),
            largest(&datagrams_of)
        );
        let frames_of = |share| self.held.frames_of(share);
        assert_eq!(
            Some(of_largest(self.held.largest_share(), &frames_of)),
            largest(&frames_of)
        );
        let frames: u32 = (0..shares.len() as u16).map(frames_of).sum();
        assert_eq!(frames, self.held.frames());
        frames
    }

    /// Asserts that the lists of a share have its datagrams: all in the order of use, and those with held fragments.
    fn check_share(&self, share: u16) {
        let (mut all, mut holding, mut seen) = (0, 0, Millis(0));
        self.by_use[usize::from(share)].find(&self.use_links, |place| {
            let datagram = &self.datagrams[usize::from(place)];
            assert!(datagram.used && datagram.share == share);
            assert!(seen <= datagram.seen, "in the order of use");
            seen = datagram.seen;
            all += 1;
            holding += usize::from(!datagram.held.is_empty());
            false
        });
        assert_eq!(all, usize::from(self.shares.used(share)));
        self.holding[usize::from(share)].find(&self.holding_links, |place| {
            let datagram = &self.datagrams[usize::from(place)];
            assert!(datagram.share == share && !datagram.held.is_empty());
            holding -= 1;
            false
        });
        assert_eq!(holding, 0, "each datagram with held fragments is in the list");
    }
}
