//! Compiles the cluster, as the model holds it, into the tables that the workers of one node read.
//!
//! [`Compiler`] takes the model's [`Changes`](heddle_model::Changes) and the node's [`Attachment`]s, and makes
//! [`Snapshot`](heddle_tables::Snapshot)s. It is pure: no clock, no file, no socket. The work of a rebuild, and the pages
//! that it copies, grow with what a change reaches, not with the cluster.
//!
//! The crate has three wings: `policy`, `service` and `node`. `compiler` ties them together; its `rebuild` lists the
//! steps and the reason for their order.
//!
//! How policy is compiled:
//!
//! - An address has an **identity**: the class of all addresses that active policies cannot tell apart. It follows from
//!   the pod (its namespace, its labels and its named ports, as far as active policies can see them) and from the longest
//!   policy CIDR that covers the address. See `policy/identities` and `policy/pod_classes`.
//! - A **selector** is one peer of a rule, kept once however many rules have it, with the identities that it matches. See
//!   `policy/selectors`.
//! - Only policies that select an endpoint of this node are **active**. See `policy/store` and `policy/activate`.
//! - Endpoints that the same policies select share a **group**: for each direction one cell per identity, recompiled only
//!   for the identities and groups that a change reaches. See `policy/groups`.
//! - An endpoint's **generation** is raised when its policy refuses something that it allowed before: because a verdict
//!   changed, or because an address has another identity. See `policy/comparison`.
//!
//! The compiler does not choose the identifiers of attachments, does not talk to workers, and does not decide when a
//! snapshot is published. The agent does.

mod compiler;
mod config;
mod generations;
mod node;
mod output;
mod policy;
mod prefix;
mod service;
#[cfg(test)]
mod tests;

pub use compiler::{BuildResult, Compiler};
pub use config::{NodeConfig, UplinkMtu};
pub use node::attachment::{AddressDifference, Attachment};
pub use service::state::RemovedBackend;
