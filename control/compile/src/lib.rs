//! Compiles the cluster, as the model holds it, into the tables that the workers of one node read.
//!
//! [`Compiler`] takes the model's [`Changes`](heddle_model::Changes) and the node's [`Attachment`]s, and makes
//! [`Snapshot`](heddle_tables::Snapshot)s. The agent uses it directly; `heddle simulate`, `heddle replay` and tests use
//! it through [`NodeTables`], which stands in for an agent. It is pure: no clock, no file, no socket. The work of a
//! rebuild, and the number of pages that it copies, depend on how much a change affects, not on the size of the
//! cluster.
//!
//! The crate has three parts, the modules `policy`, `service` and `node`. `compiler` ties them together; its `rebuild`
//! lists the steps and the reason for their order.
//!
//! How policy is compiled:
//!
//! - An address has an **identity**: the class of all addresses that active policies cannot tell apart. It follows from
//!   the pod (its namespace, its labels and its named ports, as far as active policies can see them) and from the longest
//!   policy CIDR that covers the address. See `policy/identities` and `policy/pod_classes`.
//! - A **selector** is one peer of a rule, kept once however many rules have it, with the identities that it matches. See
//!   `policy/selectors`.
//! - Only policies that select an endpoint of this node are **active**. See `policy/store` and `policy/activate`.
//! - Endpoints that the same policies select share a **group**. A group has one **cell** for each direction and
//!   identity: the compiled answer to peers of that identity, by protocol and port. Only the cells of the identities
//!   and groups that a change affects are recompiled. See `policy/groups`.
//! - An endpoint's **generation** is raised when its policy refuses something that it allowed before: because a verdict
//!   changed, or because an address has another identity. See `policy/comparison`.
//!
//! # Example
//!
//! Compiles a folder of manifests, without an agent, and looks up a verdict:
//!
//! ```
//! use std::net::IpAddr;
//!
//! use heddle_compile::{Interfaces, NodeConfig, NodeTables};
//! use heddle_model::Cluster;
//! use heddle_tables::Direction;
//! use heddle_wire::{Ip, Proto};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! std::fs::write(
//!     folder.path().join("shop.yaml"),
//!     r#"
//! apiVersion: v1
//! kind: Node
//! metadata: {name: n1}
//! spec: {podCIDRs: [10.0.1.0/24]}
//! ---
//! apiVersion: v1
//! kind: Pod
//! metadata: {name: web, namespace: shop, labels: {app: web}}
//! spec: {nodeName: n1}
//! status: {phase: Running, podIPs: [{ip: 10.0.1.10}]}
//! ---
//! apiVersion: v1
//! kind: Pod
//! metadata: {name: db, namespace: shop, labels: {app: db}}
//! spec: {nodeName: n1}
//! status: {phase: Running, podIPs: [{ip: 10.0.1.11}]}
//! ---
//! apiVersion: networking.k8s.io/v1
//! kind: NetworkPolicy
//! metadata: {name: db, namespace: shop}
//! spec:
//!   podSelector: {matchLabels: {app: db}}
//!   ingress:
//!   - from: [{podSelector: {matchLabels: {app: web}}}]
//!     ports: [{port: 5432}]
//! "#,
//! )?;
//!
//! let mut cluster = Cluster::new();
//! for event in heddle_source::folder::read(folder.path())? {
//!     cluster.apply(event);
//! }
//! assert_eq!(cluster.rejections().count(), 0);
//!
//! let tables = NodeTables::new(&cluster, NodeConfig::named("n1"), Interfaces::default());
//! let snapshot = tables.snapshot();
//! let (_, db) = tables.attached().find(|(pod, _)| &*pod.name == "db").expect("db is attached");
//! let db = snapshot.endpoint(db).expect("db has an endpoint");
//! let web = snapshot.address(Ip::from("10.0.1.10".parse::<IpAddr>()?));
//!
//! let allowed = |port| db.judge(Direction::Ingress, web, Proto::TCP, port).is_allowed();
//! assert!(allowed(5432));
//! assert!(!allowed(22));
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! The compiler does not choose the identifiers of attachments, does not talk to workers, and does not decide when a
//! snapshot is published. The agent does.

mod compiler;
mod config;
mod generations;
mod node;
mod node_tables;
mod output;
mod policy;
mod prefix;
mod service;
#[cfg(test)]
mod tests;
mod underlay;

pub use compiler::{BuildResult, Compiler};
pub use config::{NodeConfig, TunnelConfig, UplinkMtu};
pub use node::attachment::{AddressDifference, Attachment};
pub use node::pod_host_port::PodHostPort;
pub use node_tables::{Interfaces, NodeTables};
pub use prefix::prefixes;
pub use service::state::RemovedBackend;
pub use underlay::{Underlay, UnderlayRoute};
