//! The verdict on a packet.

use heddle_flow::Egress;

use crate::decide::Denial;
use crate::reason::{AbsorbReason, AnswerKind, DropReason};

/// The verdict on a packet. Every packet of a batch gets exactly one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The packet leaves by this egress; its headers are written.
    Forward(Egress),
    /// The packet leaves by this egress, but it is larger than the path's MTU: its worker cuts it into fragments.
    Fragment {
        /// The egress.
        to: Egress,
        /// The MTU of the path, in octets.
        mtu: u16,
    },
    /// The TCP packet leaves by this egress, but it is larger than the path takes, because its sender's kernel leaves segmentation to the
    /// device: its worker cuts it into segments, or sends it whole by a port that keeps their size.
    Segment {
        /// The egress.
        to: Egress,
        /// The octets of data in a segment.
        size: u16,
    },
    /// The packet's frame contains a local reply, which leaves by the port where the packet came in.
    Answer(AnswerKind),
    /// The packet ends here although nothing was wrong with it: it was meant for heddle.
    Absorb(AbsorbReason),
    /// The packet is dropped.
    Drop(Denial),
}

impl Verdict {
    /// Returns a drop that no policy decided.
    #[must_use]
    pub const fn drop(reason: DropReason) -> Self {
        Self::Drop(Denial::new(reason))
    }
}

const _: () = assert!(size_of::<Verdict>() <= 8, "a burst of verdicts is 8 cache lines");

impl From<Denial> for Verdict {
    fn from(d: Denial) -> Self {
        Self::Drop(d)
    }
}
