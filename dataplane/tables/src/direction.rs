//! The direction of a connection.

use std::fmt;

/// The direction of a connection, seen from the endpoint that has the policy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress = 0,
    /// From the endpoint.
    Egress = 1,
}

impl Direction {
    /// Both directions, in the order of their indices.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Returns 0 for ingress, 1 for egress.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns `ingress` or `egress`.
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
