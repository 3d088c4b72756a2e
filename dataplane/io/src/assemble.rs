//! Assembles packets from the descriptors of the RX ring. A packet may continue in the next descriptor, which may come with a
//! later burst.

use heddle_port::{Frame, Packet, WorkerPool};

/// The received parts of a packet whose last part is missing.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    pending: Option<Packet>,
    /// True while the rest of the current packet is discarded.
    discarding: bool,
}

/// The outcome of one received part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The packet's last part.
    Whole(Packet),
    /// A part that belongs to a packet that is not complete, or to one that was given up.
    Taken,
    /// The packet was given up: a part was invalid, or there were too many parts.
    Spoilt,
}

impl Assembler {
    /// Adds the next part, which is `None` if its descriptor was invalid. `more` is true if the packet continues.
    pub(crate) fn push(&mut self, part: Option<Frame>, more: bool, pool: &mut WorkerPool) -> Part {
        if self.discarding {
            self.discarding = more;
            if let Some(frame) = part {
                pool.free(frame);
            }
            return Part::Taken;
        }
        let Some(frame) = part else {
            return self.give_up(more, pool);
        };
        let packet = match self.pending.take() {
            None => Packet::new(pool.store(), frame),
            Some(mut packet) => {
                if let Err(frame) = packet.append(pool.store(), frame) {
                    pool.free(frame);
                    self.pending = Some(packet);
                    return self.give_up(more, pool);
                }
                packet
            }
        };
        if more {
            self.pending = Some(packet);
            return Part::Taken;
        }
        Part::Whole(packet)
    }

    /// Frees the parts of the current packet, and discards the rest of it if `more` is true.
    fn give_up(&mut self, more: bool, pool: &mut WorkerPool) -> Part {
        self.discarding = more;
        if let Some(packet) = self.pending.take() {
            pool.free_packet(packet);
        }
        Part::Spoilt
    }

    /// Removes the incomplete packet.
    pub(crate) fn take_incomplete(&mut self) -> Option<Packet> {
        self.pending.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_port::{SharedPool, WorkerId};

    fn part(pool: &mut WorkerPool, byte: u8) -> Option<Frame> {
        let mut frame = pool.alloc().unwrap();
        pool.store().fill(&mut frame, &[byte]);
        Some(frame)
    }

    fn push(assembler: &mut Assembler, pool: &mut WorkerPool, byte: u8, more: bool) -> Part {
        let frame = part(pool, byte);
        assembler.push(frame, more, pool)
    }

    fn whole(part: Part, pool: &mut WorkerPool) -> Vec<u8> {
        let Part::Whole(packet) = part else { panic!("{part:?}") };
        let bytes = packet.to_vec(pool.store());
        pool.free_packet(packet);
        bytes
    }

    #[test]
    fn parts_become_packets() {
        let (mut assembler, mut pool) = (
            Assembler::default(),
            WorkerPool::new(WorkerId(0), SharedPool::heap(8, 512)),
        );
        let single = push(&mut assembler, &mut pool, 1, false);
        assert_eq!(whole(single, &mut pool), [1]);
        assert_eq!(push(&mut assembler, &mut pool, 2, true), Part::Taken);
        assert_eq!(push(&mut assembler, &mut pool, 3, true), Part::Taken);
        assert_eq!(pool.store().outstanding(), 2);
        let last = push(&mut assembler, &mut pool, 4, false);
        assert_eq!(whole(last, &mut pool), [2, 3, 4]);
        assert_eq!((assembler.take_incomplete(), pool.store().outstanding()), (None, 0));
    }

    #[test]
    fn an_unusable_part_spoils_its_packet_and_no_other() {
        let (mut assembler, mut pool) = (
            Assembler::default(),
            WorkerPool::new(WorkerId(0), SharedPool::heap(8, 512)),
        );
        assert_eq!(push(&mut assembler, &mut pool, 1, true), Part::Taken);
        assert_eq!(assembler.push(None, true, &mut pool), Part::Spoilt);
        assert_eq!(push(&mut assembler, &mut pool, 2, true), Part::Taken);
        assert_eq!(assembler.push(None, true, &mut pool), Part::Taken);
        assert_eq!(push(&mut assembler, &mut pool, 3, false), Part::Taken);
        assert_eq!(assembler.push(None, false, &mut pool), Part::Spoilt);
        let next = push(&mut assembler, &mut pool, 4, false);
        assert_eq!(whole(next, &mut pool), [4]);
        assert_eq!(pool.store().outstanding(), 0);
    }

    #[test]
    fn a_packet_of_too_many_parts_is_given_up() {
        let (mut assembler, mut pool) = (
            Assembler::default(),
            WorkerPool::new(WorkerId(0), SharedPool::heap(30, 512)),
        );
        for i in 0..Packet::MAX_FRAMES {
            assert_eq!(push(&mut assembler, &mut pool, i, true), Part::Taken);
        }
        assert_eq!(push(&mut assembler, &mut pool, 18, true), Part::Spoilt);
        assert_eq!(push(&mut assembler, &mut pool, 19, false), Part::Taken);
        let next = push(&mut assembler, &mut pool, 20, false);
        assert_eq!(whole(next, &mut pool), [20]);
        assert_eq!(pool.store().outstanding(), 0);
    }
}
