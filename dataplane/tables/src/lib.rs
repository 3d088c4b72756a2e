//! What the workers read: endpoints, addresses and their identities, policy, Services, and the node itself.
//!
//! Control builds a [`Snapshot`] with a [`SnapshotBuilder`] and publishes it through [`publish`]; workers take the
//! newest one between two bursts and read it without a lock, an allocation or a wait. Every table is a root of `Arc`
//! pages: a change copies the pages that it touches and the root, the rest is shared with the snapshot before.
//!
//! This crate knows no Kubernetes object and decides nothing: `heddle-compile` turns the cluster into these tables,
//! `heddle-engine` asks them about packets.

mod address;
mod direction;
mod endpoint;
mod exit;
mod judge;
mod lpm;
mod maglev;
mod node;
mod paged_map;
mod paged_vec;
mod policy;
mod policy_builder;
mod ports;
mod prefix;
pub mod publish;
mod reasons;
pub mod rendezvous;
mod rows;
mod service;
mod sift;
mod snapshot;

pub use address::{AddressInfo, Place};
pub use direction::Direction;
pub use endpoint::Endpoint;
pub use exit::Exit;
pub use heddle_ids::{EndpointId, Generation, IdentityId, NodeId, RuleId, WorkerId};
pub use judge::{Ask, judge_all};
pub use lpm::{Lpm, SoughtRange};
pub use maglev::Maglev;
pub use node::{HostPort, Masquerade, NodeTable};
pub use paged_map::{PagedMap, Sought};
pub use paged_vec::PagedVec;
pub use policy::{Cell, EndpointPolicy, PolicySide, PolicyVerdict};
pub use policy_builder::{Answer, PolicySideBuilder};
pub use ports::{PortRange, PortSet, first_wins};
pub use prefix::Prefix;
pub use reasons::{Decision, PolicyKind, PolicyTier};
pub use rows::Row;
pub use service::{
    Affinity, Backend, Backends, Balancing, Choice, Client, Frontend, FrontendKey, FrontendKind, ServiceLookup,
};
pub use snapshot::{Snapshot, SnapshotBuilder, TableSizes};
