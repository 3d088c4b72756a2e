//! How a packet ends.

use heddle_tables::EndpointId;

use crate::decide::Denial;
use crate::reason::{AbsorbReason, AnswerKind, DropReason};

/// How a packet ends; every packet of a batch gets exactly one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It leaves by the port of that endpoint; its headers are written.
    Forward(EndpointId),
    /// The same, but it is larger than that way takes: its worker cuts it into fragments.
    Fragment {
        /// By whose port it leaves.
        to: EndpointId,
        /// The largest packet there.
        mtu: u16,
    },
    /// Its frame holds heddle's answer now, which leaves by the port where the packet came in.
    Answer(AnswerKind),
    /// It was meant for nobody but heddle.
    Absorb(AbsorbReason),
    /// It goes no further.
    Drop(Denial),
}

impl Verdict {
    /// A drop that no policy decided.
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
