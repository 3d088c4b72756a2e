//! The durable numbers of other parts of heddle that an entry holds.

/// The durable number of a local attachment; the host (0) and the uplink (1) have one too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointNo(pub u16);

/// The durable number of another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeNo(pub u16);

/// The durable number of a next-hop record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NextHopNo(pub u16);

/// The generation of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u32);

impl EndpointNo {
    /// The node itself, behind the host port.
    pub const HOST: Self = Self(0);
    /// The node's NIC.
    pub const UPLINK: Self = Self(1);
}
