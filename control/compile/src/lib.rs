//! The cluster as the model knows it, made into the tables that the workers of one node read.
//!
//! [`Compiler`] takes the model's [`Changes`](heddle_model::Changes) and the attachments of the node, and makes
//! [`Snapshot`](heddle_tables::Snapshot)s. It is pure: no clock, no file, no socket. Work is in proportion to what a
//! change reaches, and so are the pages that it copies.
//!
//! How policy is compiled:
//!
//! - An address has an **identity**, the class of all addresses that policy cannot tell apart: the pod's namespace,
//!   those of its labels and named ports that some active policy speaks of, and the longest policy CIDR that covers the
//!   address (which implies the shorter ones). Addresses of no pod have the CIDR alone. See `identities`.
//! - A **selector** is one peer of a rule, kept once however many rules have it, with the identities that it selects.
//!   New identities find their selectors, and new selectors their identities, by an inverted index. See `selectors`.
//! - Only policies that select an endpoint of this node are **active**. See `policies`.
//! - Endpoints that the same policies select share a **group**: for each direction one cell per identity, made anew
//!   only for identities and groups that a change touches. See `groups`.
//! - An endpoint's **generation** is raised when its policy refuses something that it allowed before: because an answer
//!   changed, or because an address moved to another identity. See `generations`.
//!
//! What it does not do: choose numbers of attachments, talk to workers, or decide when a snapshot is published.

mod apply;
mod compiler;
mod config;
mod generations;
mod node;
mod policy;
mod rebuild;
mod service;
#[cfg(test)]
mod tests;

pub use compiler::{BuildResult, Compiler, RemovedBackend};
pub use config::{NodeConfig, UplinkMtu};
pub use node::attachment::{AddressDifference, Attachment};
