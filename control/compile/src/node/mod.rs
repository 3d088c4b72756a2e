//! The node: attachments, addresses, the cluster's nodes, and the tables that follow from them.
//!
//! - `attachment` holds the local endpoints, with each `pod_host_port`, `nodes` the other nodes, `own_node` this one.
//! - `addresses` holds the claims on each address; the strongest claim decides its identity and place.
//! - `paths` finds the path to each other node. `remote` writes the other nodes and keeps them up to date.
//! - `endpoints` writes the endpoints.
//! - `state` ties these together. It uses `policy`; `policy` does not use `node`.

pub(crate) mod addresses;
pub(crate) mod attachment;
pub(crate) mod endpoints;
pub(crate) mod nodes;
pub(crate) mod own_node;
pub(crate) mod paths;
pub(crate) mod pod_host_port;
mod remote;
pub(crate) mod state;
