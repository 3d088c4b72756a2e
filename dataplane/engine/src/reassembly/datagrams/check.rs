//! The table's invariants, which hold between any two calls. Tests check them.

use heddle_flow::Millis;

use super::{Datagrams, NONE, SHARE, State};

impl Datagrams {
    /// Asserts that every datagram is in its bucket, its list and its share, and in no other. Returns the held frames.
    pub(in super::super) fn check(&self) -> u32 {
        let mut shares = [0_u16; 256];
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
        assert_eq!((listed.len(), &shares), (used, &*self.shares));
        assert_eq!(self.totals.datagrams, used as u64);
        let mut free = self.free;
        for _ in used..self.datagrams.len() {
            free = self.datagrams[usize::from(free)].next;
        }
        assert_eq!(free, NONE, "every place is used or free");
        assert!(shares.iter().all(|n| *n <= self.config.datagrams / SHARE));
        let frames: u32 = (0..=255).map(|share| self.held.frames_of(share)).sum();
        assert_eq!(frames, self.held.frames());
        frames
    }
}
