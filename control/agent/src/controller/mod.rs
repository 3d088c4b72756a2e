//! The controller: one thread that owns attachments, objects, tables and ports.
//!
//! It takes events of the source, requests of the CNI plugin, reports of the host task and outcomes of the journal one
//! after the other (`event_loop`), and then carries the changes to the tables, the kernel and the health-check ports
//! (`reconcile`). Nothing is published until every kind of object has synced.
//!
//! The thread never waits for the disk, for `nft` or for netlink. `state` has the [`Controller`] itself; each of its
//! parts owns its own state:
//!
//! - `attachments`: records and stages of this node's attachments; `cni` has the requests that change them.
//! - `objects`: the cluster model and the changes that the tables do not have yet.
//! - `publication`: the compiler, the version published last, and what waits for acknowledgements.
//! - `host`: the host task, which reconciles the node's kernel state on a thread of its own.
//! - `uplink`: the ports on the NIC, and the network between the nodes.
//! - `journal`: writes the state file and the file of last good versions on a thread of its own.
//! - `crate::read_model`: answers the operator's queries without this thread.
//!
//! Opening an AF_XDP socket takes this thread milliseconds; the workers never wait for it.

mod attachments;
mod change_times;
mod cni;
mod cni_answers;
mod error;
mod event_loop;
mod groups;
mod host;
mod host_ports;
mod journal;
mod node_report;
mod objects;
mod pod_routes;
mod publication;
mod reconcile;
mod state;
mod sweep;
mod takeover;
mod uplink;
mod uplink_ports;

pub use error::ControllerError;
pub use state::{Controller, Parts};
