//! The node's kernel state at the host port: it is observed, compared with a plan, and reconciled.
//!
//! The host port is a veth pair between the dataplane and the kernel, for the node's own processes and for traffic that
//! leaves the node:
//! [`INTERFACE`] in the node's namespace has an address for each IP family and routes for the pod and Service ranges;
//! [`PEER`] has one AF_XDP queue for each worker. One nftables table ([`nft`]) and one sysctl with the reserved ports
//! ([`reserved`]) belong to it.
//!
//! - [`plan`] computes from the cluster's objects what the kernel's state should be; [`frontends`] and
//!   [`external_aliases`] are parts of it. They neither read nor change the kernel.
//! - [`observe`] reads the kernel's state, and [`port`] applies the differences.
//! - [`underlay`] is how this node's packets reach the other nodes. The task follows it live and has the kernel keep the next
//!   hops resolved.
//! - [`state_file`] writes the files of the state directory.
//! - [`task`] runs all of it on a thread of its own. The control thread starts it by [`start`] and never waits for it.
//!
//! This crate and `heddle-cni` alone change the node's kernel state. The node's NICs, its other routes, its forwarding switches and
//! the neighbor entries of others are never changed.

mod due;
pub mod error;
pub mod external_aliases;
pub mod frontends;
pub mod links;
pub mod netlink;
pub mod nft;
pub mod nft_program;
pub mod observe;
pub mod plan;
pub mod port;
pub mod report;
pub mod reserved;
pub mod state_file;
pub mod sysctl;
pub mod task;
pub mod underlay;
mod underlay_due;
mod underlay_plan;
mod underlay_task;
pub mod uplink;
mod watch;
mod well_known;

use std::path::Path;

use heddle_linux::Netlink;

pub use error::HostError;
pub use nft_program::Nft;
pub use plan::Plan;
pub use port::{Applied, HostPort};
pub use report::{HostLink, HostStatus, PortLink, PortLinks, Report};
pub use task::{HostConfig, HostHandle, start};
pub use underlay::{NoPath, NodePath, Underlay, UplinkFacts};
pub use well_known::{GATEWAY_V4, GATEWAY_V6, INTERFACE, PEER, gateway_of};

/// Removes everything of a host port from this network namespace, and returns a line for each thing it removed.
///
/// # Errors
/// Something could not be removed. Things that were removed before stay removed.
pub async fn remove(handle: &Netlink, state_dir: &Path) -> Result<Vec<String>, HostError> {
    let mut removed = Vec::new();
    if links::delete(handle, INTERFACE)? {
        removed.push(format!(
            "interface {INTERFACE} with its addresses, routes and neighbours"
        ));
    }
    if links::delete(handle, PEER)? {
        removed.push(format!("interface {PEER}"));
    }
    match underlay_task::remove_entries(handle)? {
        0 => {}
        1 => removed.push("the neighbor entry of a path to another node".to_owned()),
        entries => removed.push(format!("{entries} neighbor entries of paths to other nodes")),
    }
    if let Some(range) = reserved::release(state_dir)? {
        removed.push(format!("{range} of net.ipv4.ip_local_reserved_ports"));
    }
    // Last: if `nft` is missing, everything else is removed all the same.
    if Nft::default().remove().await? {
        removed.push(format!("nftables table {}", nft::NAME));
    }
    Ok(removed)
}
