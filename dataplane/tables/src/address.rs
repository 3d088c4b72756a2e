//! The entry of an address: its identity for policy, and its place.

use heddle_ids::{EndpointId, IdentityId, NodeId};

/// The place of an address, seen from this node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Place {
    /// A pod of this node with this attachment.
    Local(EndpointId),
    /// An address of this node itself.
    Host,
    /// A pod of another node, or an address of that node's pod ranges that no known pod has.
    Node(NodeId),
    /// Another node's own address.
    RemoteHost(NodeId),
    /// A pod's address, or an address of this node's pod ranges, that belongs to no attachment and no known node. It cannot be
    /// reached.
    Unreachable,
    /// Any other address.
    #[default]
    Outside,
}

impl Place {
    /// Returns true if the address is a pod of this node, or lies in the pod ranges of another node.
    #[must_use]
    pub const fn is_pod(self) -> bool {
        matches!(self, Self::Local(_) | Self::Node(_))
    }
}

/// The identity and the place of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AddressInfo {
    /// Its identity for policy.
    pub identity: IdentityId,
    /// Its place.
    pub place: Place,
}
