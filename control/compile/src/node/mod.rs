//! The node: attachments, addresses, and the cluster's nodes.

pub(crate) mod addresses;
pub(crate) mod attachment;
pub(crate) mod nodes;
