//! The host port: how the node's own processes, and traffic that leaves the node, meet the dataplane.
//!
//! A veth pair: [`INTERFACE`] in the node's namespace with an address per family and routes for pod and Service ranges,
//! [`PEER`] with one AF_XDP queue for each worker. [`plan`] computes what should be there from the cluster's objects,
//! [`HostPort`] makes it so: idempotent, and what an earlier agent left is taken over. Beside the interface's own there
//! are one nftables table ([`nft`]) and one sysctl with the reserved ports ([`reserved`]).
//!
//! Nothing of the node's NICs, of its other routes or of its forwarding switches is changed.

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
pub mod reserved;
pub mod sysctl;
pub mod task;
pub mod uplink;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use heddle_linux::Netlink;

pub use error::HostError;
pub use nft_program::Nft;
pub use plan::Plan;
pub use port::HostPort;
pub use task::{HostConfig, HostHandle, HostLink, HostStatus, Report, start};

/// The node's end.
pub const INTERFACE: &str = "heddle0";
/// The dataplane's end.
pub const PEER: &str = "hdhost";
/// The gateway of pods and of the host port's routes; it exists only in heddle.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The gateway of an address's family.
#[must_use]
pub const fn gateway_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
    }
}

/// Removes all that a host port leaves in this network namespace, and says what it was.
///
/// # Errors
/// The first thing that could not be removed.
pub async fn remove(handle: &Netlink, state_dir: &Path) -> Result<Vec<String>, HostError> {
    let mut removed = Vec::new();
    if links::delete(handle, INTERFACE).await? {
        removed.push(format!(
            "interface {INTERFACE} with its addresses, routes and neighbours"
        ));
    }
    if links::delete(handle, PEER).await? {
        removed.push(format!("interface {PEER}"));
    }
    if let Some(range) = reserved::release(state_dir)? {
        removed.push(format!("{range} of net.ipv4.ip_local_reserved_ports"));
    }
    // Last: where `nft` is missing, everything else has gone all the same.
    if Nft::default().remove().await? {
        removed.push(format!("nftables table {}", nft::NAME));
    }
    Ok(removed)
}
