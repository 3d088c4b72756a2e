//! The identifiers, and their constants.

use crate::newtype;

newtype!(
    /// A port: its index in the XSKMAP, in the record of a frame's holder, and in every table of ports.
    PortId(u16), "port"
);
newtype!(
    /// A local endpoint: the host, the uplink, or a pod's attachment. It is durable: flow entries contain it over a restart of the
    /// agent.
    EndpointId(u16), "endpoint"
);
newtype!(
    /// Another node of the cluster. It is durable like [`EndpointId`].
    NodeId(u16), "node"
);
newtype!(
    /// A next-hop record: the link-layer header with which packets leave by the uplink. It is durable like [`EndpointId`].
    NextHopId(u16), "next hop"
);
newtype!(
    /// A class of addresses that no active policy distinguishes. It is valid in one snapshot and the snapshots that follow it.
    IdentityId(u32), "identity"
);
newtype!(
    /// The rule that decided about a connection: a rule of a policy, a policy's default denial, or one of the constants
    /// below.
    RuleId(u32), "rule"
);
newtype!(
    /// A worker thread.
    WorkerId(u8), "worker"
);

macro_rules! index {
    ($($name:ident),*) => {$(
        impl $name {
            /// Returns the identifier as an index.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}
index!(PortId, EndpointId, NodeId, NextHopId, IdentityId, RuleId, WorkerId);

impl EndpointId {
    /// The node itself, behind the host port.
    pub const HOST: Self = Self(0);
    /// The node's NIC.
    pub const UPLINK: Self = Self(1);
    /// The lowest identifier of a pod's attachment.
    pub const FIRST_POD: Self = Self(2);

    /// Returns true for a pod's attachment.
    #[must_use]
    pub const fn is_pod(self) -> bool {
        self.0 >= Self::FIRST_POD.0
    }
}

impl NextHopId {
    /// The kernel: packets leave by the host port and are routed there, although their replies come in by the uplink.
    pub const KERNEL: Self = Self(0);
    /// The lowest identifier of a neighbor of the uplink.
    pub const FIRST_NEIGHBOR: Self = Self(1);
}

impl IdentityId {
    /// The addresses that no pod has and no CIDR of a policy covers.
    pub const OUTSIDE: Self = Self(0);
}

impl RuleId {
    /// No policy selects the endpoint for that direction.
    pub const NO_POLICY: Self = Self(0);
    /// Traffic between a pod and its own node is always allowed.
    pub const OWN_NODE: Self = Self(1);
    /// Traffic of a pod with itself is allowed unless a rule of a ClusterNetworkPolicy of tier Admin denies it.
    pub const SELF: Self = Self(2);
    /// The endpoint's policy is not compiled yet: it forwards nothing.
    pub const NOT_READY: Self = Self(3);
    /// The lowest identifier of a policy's rule. The identifiers below it are the constants above, with a fixed meaning.
    pub const FIRST_POLICY: Self = Self(16);
    /// The greatest identifier that a policy table can hold: its cells have 29 bits for a rule.
    pub const MAX: Self = Self((1 << 29) - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_begin_behind_the_host_and_the_uplink() {
        for (id, is_pod) in [(0, false), (1, false), (2, true), (u16::MAX, true)] {
            assert_eq!(EndpointId(id).is_pod(), is_pod, "{:?}", EndpointId(id));
        }
        assert_eq!((EndpointId::HOST, EndpointId::UPLINK), (EndpointId(0), EndpointId(1)));
    }

    #[test]
    fn identifiers_are_indices_from_zero_to_their_greatest() {
        for id in [0, 1, u16::MAX] {
            let index = usize::from(id);
            assert_eq!(
                [
                    PortId(id).index(),
                    EndpointId(id).index(),
                    NodeId(id).index(),
                    NextHopId(id).index()
                ],
                [index; 4]
            );
        }
        for id in [0, 1, u32::MAX] {
            assert_eq!(
                [IdentityId(id).index(), RuleId(id).index()],
                [usize::try_from(id).unwrap(); 2]
            );
        }
        for id in [0, 1, u8::MAX] {
            assert_eq!(WorkerId(id).index(), usize::from(id));
        }
    }

    #[test]
    fn constant_rules_lie_below_those_of_policies_and_these_fit_29_bits() {
        for constant in [RuleId::NO_POLICY, RuleId::OWN_NODE, RuleId::SELF, RuleId::NOT_READY] {
            assert!(constant < RuleId::FIRST_POLICY);
        }
        assert!(RuleId::FIRST_POLICY < RuleId::MAX);
        assert_eq!(
            (RuleId::MAX.0.leading_zeros(), (RuleId::MAX.0 + 1).leading_zeros()),
            (3, 2)
        );
    }

    #[test]
    fn identifiers_are_shown_bare_and_with_their_word_in_debug_output() {
        assert_eq!(
            (PortId(0).to_string(), format!("{:?}", PortId(1))),
            ("0".into(), "port 1".into())
        );
        assert_eq!(
            (WorkerId(u8::MAX).to_string(), format!("{:?}", NextHopId(u16::MAX))),
            ("255".into(), "next hop 65535".into())
        );
    }
}
