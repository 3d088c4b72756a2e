//! The tables that workers read: endpoints, addresses and their identities, policy, Services, and the node itself.
//!
//! Control builds a [`Snapshot`] with a [`SnapshotBuilder`] and publishes it through [`publish`]. Workers take the newest one
//! between two bursts and read it without a lock, an allocation or a wait. Every table is a root of `Arc` pages: a change copies
//! the root and the pages that it touches, and shares the other pages with the previous snapshot.
//!
//! This crate contains no Kubernetes objects. `heddle-compile` compiles the cluster into these tables, and `heddle-engine` looks
//! packets up in them.

mod address;
mod backend;
mod cell;
mod direction;
mod egress_port;
mod endpoint;
mod lpm;
mod maglev;
mod node;
mod node_path;
mod paged_map;
mod paged_vec;
mod policy;
mod policy_builder;
mod port_rules;
mod ports;
mod prefix;
mod provenance;
pub mod publish;
pub mod rendezvous;
mod service;
mod snapshot;
mod tunnel;

pub use address::{AddressInfo, Place};
pub use backend::Backend;
pub use cell::{Cell, PolicyVerdict};
pub use direction::Direction;
pub use egress_port::EgressPort;
pub use endpoint::Endpoint;
pub use heddle_ids::{EndpointId, Generation, IdentityId, NextHopId, NodeId, RuleId, WorkerId};
pub use lpm::Lpm;
pub use maglev::Maglev;
pub use node::{HostPort, Masquerade, NodeTable, Uplink, UplinkPort};
pub use node_path::{Exit, NextHop, NodePath, RemoteNode, Unreachable};
pub use paged_map::PagedMap;
pub use paged_vec::PagedVec;
pub use policy::{EndpointPolicy, PolicySide};
pub use policy_builder::{PeerRules, PolicySideBuilder};
pub use port_rules::PortRules;
pub use ports::{PortRange, PortSet, first_wins};
pub use prefix::Prefix;
pub use provenance::{PolicyKind, PolicyTier, Provenance};
pub use service::{Affinity, Backends, Balancing, Choice, Client, Frontend, FrontendKey, FrontendKind, ServiceLookup};
pub use snapshot::{Snapshot, SnapshotBuilder, TableSizes};
pub use tunnel::{Tunnel, TunnelMode, UnknownTunnelMode};
