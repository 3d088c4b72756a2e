//! The small numbers by which tables, flow entries and reports name things.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number as an index.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

number!(
    /// A local endpoint: the host, the uplink, or an attachment of a pod. Durable: kept over restarts, so that flow
    /// entries may hold it.
    EndpointId(u16), "endpoint"
);
number!(
    /// Another node of the cluster. Durable, as [`EndpointId`] is.
    NodeId(u16), "node"
);
number!(
    /// The class of an address as policy sees it. Means something only within one snapshot and its successors.
    IdentityId(u32), "identity"
);
number!(
    /// What decided: a rule of a policy, a default denial, or one of the constants below. A
    /// [`Decision`](crate::Decision) names it.
    RuleId(u32), "rule"
);
number!(
    /// Counts the changes that reached an endpoint: a flow entry of another generation is judged again.
    Generation(u32), "generation"
);
number!(
    /// A worker thread.
    WorkerId(u8), "worker"
);

impl EndpointId {
    /// The node itself, behind the host port.
    pub const HOST: Self = Self(0);
    /// The node's NIC.
    pub const UPLINK: Self = Self(1);
    /// The first number that a pod's attachment may have.
    pub const FIRST_POD: Self = Self(2);

    /// Whether this is a pod's attachment.
    #[must_use]
    pub const fn is_pod(self) -> bool {
        self.0 >= Self::FIRST_POD.0
    }
}

impl IdentityId {
    /// Addresses that no pod has and no CIDR of a policy covers.
    pub const OUTSIDE: Self = Self(0);
}

impl Generation {
    /// The generation after this one; wraps.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl RuleId {
    /// No policy selects the endpoint for that direction.
    pub const NO_POLICY: Self = Self(0);
    /// Traffic between a pod and its own node is always allowed.
    pub const OWN_NODE: Self = Self(1);
    /// Traffic of a pod with itself is always allowed.
    pub const SELF: Self = Self(2);
    /// The endpoint's policy is not compiled yet: it forwards nothing.
    pub const NOT_READY: Self = Self(3);
    /// Numbers below this are the constants above, with a fixed meaning.
    pub const FIRST_POLICY: Self = Self(16);
    /// The greatest number that a table can hold.
    pub const MAX: Self = Self((1 << 30) - 1);
}

/// Which way a connection goes, seen from the endpoint whose policy is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress = 0,
    /// From the endpoint.
    Egress = 1,
}

impl Direction {
    /// Both directions, in the order of their numbers.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// 0 for ingress, 1 for egress.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// `ingress` or `egress`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
