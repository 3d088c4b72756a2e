//! The packet pipeline between the port where a packet comes in and its egress.
//!
//! [`process`](process()) takes a burst through the stages and gives each packet its [`Verdict`]. It uses packets and tables, no
//! ring and no socket. A [`Worker`] has the rings: it receives bursts, transmits forwarded packets and local replies, hands
//! packets over to the worker that owns their egress port, counts, and reads control messages. [`decide`](decide()) is the
//! slow path without a frame. [`testing`] contains a whole node in memory.
//!
//! The engine opens no ports, compiles no tables and reads no clock. It never allocates, logs or locks per packet, except for
//! the flow table's bucket locks when a connection is inserted or removed.
//!
//! # Example
//!
//! One node in memory forwards a packet from one pod to another:
//!
//! ```
//! use std::sync::Arc;
//!
//! use heddle_engine::PortRole;
//! use heddle_engine::testing::{Node, NodeBuilder};
//! use heddle_port::PortId;
//! use heddle_tables::{
//!     AddressInfo, Endpoint, EndpointId, EndpointPolicy, Generation, IdentityId, Place, SnapshotBuilder, WorkerId,
//! };
//! use heddle_wire::{Ip, MacAddr};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The tables: two pods of this node, without policies.
//! let pods = [(EndpointId(2), [10, 0, 0, 2]), (EndpointId(3), [10, 0, 0, 3])];
//! let mut tables = SnapshotBuilder::new();
//! for (id, address) in pods {
//!     let ip = Ip::from_v4(address);
//!     tables.set_endpoint(Endpoint {
//!         id,
//!         generation: Generation(0),
//!         addresses: [ip].into_iter().collect(),
//!         mac: MacAddr([2, 0, 0, 0, 0, address[3]]),
//!         port: PortId(id.0),
//!         worker: WorkerId(0),
//!         mtu: 1500,
//!         name: "shop/web".into(),
//!         policy: Some(Arc::new(EndpointPolicy::open())),
//!     });
//!     let identity = IdentityId(id.0.into());
//!     tables.set_address(ip, AddressInfo { identity, place: Place::Local(id) });
//! }
//!
//! // The node: one worker with a port in memory for each pod.
//! let mut node: Node = NodeBuilder::new().build(tables.build().0)?;
//! for (id, _) in pods {
//!     node.open(0, PortId(id.0), PortRole::Pod(id))?;
//! }
//!
//! // A UDP packet from 10.0.0.2 to 10.0.0.3, sent to the gateway's MAC address.
//! let mut frame = Vec::from(MacAddr::GATEWAY.0);
//! frame.extend([2, 0, 0, 0, 0, 2, 0x08, 0x00]);
//! frame.extend([0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0x66, 0xcc, 10, 0, 0, 2, 10, 0, 0, 3]);
//! frame.extend([0x03, 0xe8, 0, 53, 0, 8, 0, 0]);
//! node.push(PortId(2), &frame);
//! node.step()?;
//!
//! // It left by the other pod's port, to that pod's MAC address and with a TTL of 63.
//! let out = node.pop(PortId(3)).ok_or("nothing left")?;
//! assert_eq!((&out[..6], out[22]), (&[2, 0, 0, 0, 0, 3][..], 63));
//! let changes = node.changes();
//! assert!(changes.contains(&(PortId(2), "forwarded".to_owned(), 1)), "{changes:?}");
//! assert_eq!(node.finish(), 0, "no frame is missing");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod batch;
mod context;
mod control;
mod counters;
mod decide;
mod drops;
mod error_budget;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handover;
mod ingress;
mod process;
mod reason;
mod reassembly;
mod stage;
pub mod testing;
mod verdict;
mod wakeup;
mod worker;

pub use batch::Batch;
pub use context::{StageConfig, Stages};
pub use control::{AddError, NotAdded, WorkerGone, WorkerHandle};
pub use counters::{Counter, PortCounters, PortTotals, WorkerCounters, WorkerTotals};
pub use decide::{
    Allowed, BackendSelector, Decision, Denial, Query, Source, Target, connection_hash, decide, decide_with, judge,
    service_at, target_of,
};
pub use drops::{DropRecord, DropRing, PolicyCount, PolicyCounters, Reading};
pub use error_budget::ErrorLimits;
pub use handover::{Ends, mesh};
pub use ingress::{Ingress, PortRole};
pub use process::{Tables, process};
pub use reason::{AbsorbReason, AnswerKind, DropClass, DropReason};
pub use reassembly::{FragmentConfig, FragmentTotals};
pub use verdict::Verdict;
pub use wakeup::Waker;
pub use worker::{TurnStats, Worker, WorkerConfig};
