//! The identifiers that several crates share: ports, endpoints, nodes, workers, rules, identities and next hops. It also
//! contains the counters that show whether a flow entry is stale.
//!
//! Each is a newtype over the integer that tables, flow entries and the frames' records contain. This crate depends on no other one,
//! so that no crate depends on another one only for an identifier. An identifier that a single crate uses (an area of frames, a slot
//! of the flow table) is defined in that crate.

mod counter;
mod id;

pub use counter::{Epoch, Generation};
pub use id::{EndpointId, IdentityId, NextHopId, NodeId, PortId, RuleId, WorkerId};

/// Defines a newtype over an unsigned integer that is displayed as the integer, and in debug output with a word before it.
macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty), $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}
use newtype;
