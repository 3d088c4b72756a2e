//! The result of a stage: what the driver does next with the packet.

use heddle_flow::{Egress, FlowFlags, FlowView, Hit, NewFlow, Rewrite, SlotId};

use super::mtu::Fit;
use crate::reason::{AnswerKind, DropReason};
use crate::verdict::Verdict;

/// The next step for a packet. A stage returns it, and the driver ([`process`](crate::process())) carries it out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Apply the rewrite of a current flow and forward the packet.
    Replay(Replay),
    /// Judge a flow entry against the tables, because it is stale or its origin is not the packet's.
    Revalidate(Hit),
    /// Open a connection. The new connection replaces the named entry once it is allowed.
    Open(Option<SlotId>),
    /// Send a local reply to the packet's sender.
    Reply(Reply),
    /// Nothing: the packet has its verdict.
    Done(Verdict),
}

impl Next {
    /// Returns a drop that no policy decided.
    pub(crate) fn drop(reason: DropReason) -> Self {
        Self::Done(Verdict::drop(reason))
    }
}

/// The direction of a flow that a packet follows: a copy of those fields of the entry that its packets need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replay {
    /// The entry, in which the packet is counted.
    pub(crate) slot: SlotId,
    rewrite: Rewrite,
    flags: FlowFlags,
    egress: Egress,
    mss_clamp: u16,
}

impl Replay {
    /// Returns the direction of an entry that was found.
    pub(crate) const fn of(hit: &Hit) -> Self {
        Self::of_view(hit.slot, &hit.view)
    }

    /// Returns the direction of an entry with this content.
    pub(crate) const fn of_view(slot: SlotId, view: &FlowView) -> Self {
        Self {
            slot,
            rewrite: view.rewrite,
            flags: view.flags,
            egress: view.egress,
            mss_clamp: view.mss_clamp,
        }
    }

    /// Returns the direction of an entry that was just inserted.
    pub(crate) const fn inserted(slot: SlotId, flow: &NewFlow) -> Self {
        Self {
            slot,
            rewrite: flow.rewrite,
            flags: flow.flags,
            egress: flow.egress,
            mss_clamp: flow.mss_clamp,
        }
    }

    /// Returns the plan for the direction's packets.
    pub(crate) const fn plan(&self) -> Plan<'_> {
        Plan {
            rewrite: &self.rewrite,
            nat: self.flags.contains(FlowFlags::NAT),
            egress: self.egress,
            fit: Fit::from_mss(self.mss_clamp),
        }
    }
}

/// The rewrite and the egress for the packets of one direction of a flow. It borrows the rewrite, because copying the rewrite for
/// each packet costs as much as applying it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) rewrite: &'a Rewrite,
    pub(crate) nat: bool,
    pub(crate) egress: Egress,
    pub(crate) fit: Fit,
}

impl<'a> Plan<'a> {
    /// Returns the plan of an entry, straight from its content, for the hot path.
    #[inline(always)]
    pub(crate) const fn of(view: &'a FlowView) -> Self {
        Self {
            rewrite: &view.rewrite,
            nat: view.flags.contains(FlowFlags::NAT),
            egress: view.egress,
            fit: Fit::from_mss(view.mss_clamp),
        }
    }
}

/// A local reply to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// ICMP time exceeded.
    TimeExceeded,
    /// ICMP fragmentation needed, or packet too big.
    TooBig {
        /// The MTU of the path, in octets.
        mtu: u16,
    },
    /// The rejection of a Service without such a port or without an endpoint: a TCP reset or ICMP port unreachable.
    Reject,
    /// A TCP reset, because the segment belongs to no connection. If no reset may be sent, the packet is dropped for the reason.
    Reset(DropReason),
    /// An echo reply from the gateway.
    Gateway,
    /// A reply that the stage has built in the scratch buffer.
    Prepared {
        /// Its length in octets.
        len: u16,
        /// Its kind.
        kind: AnswerKind,
    },
}

impl Reply {
    /// Returns the reason for which the packet is dropped if the reply cannot or must not be sent.
    pub(crate) const fn otherwise(self) -> DropReason {
        match self {
            Self::TimeExceeded => DropReason::TtlExceeded,
            Self::TooBig { .. } => DropReason::TooBig,
            Self::Reject => DropReason::ServiceRejected,
            Self::Reset(reason) => reason,
            Self::Prepared {
                kind: AnswerKind::Arp, ..
            } => DropReason::ArpMalformed,
            Self::Prepared { .. } => DropReason::NeighborInvalid,
            // No flow has the gateway as its destination, so no later fragment and no ICMP error gets here.
            Self::Gateway => DropReason::NoVerdict,
        }
    }
}
