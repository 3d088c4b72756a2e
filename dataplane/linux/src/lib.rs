//! The wrapper around the kernel's network configuration: rtnetlink, network namespaces, sysctl, ethtool and bpffs.
//!
//! - [`Netlink`]: links, addresses, routes and neighbors of one network namespace ([`link`], [`address`], [`route`],
//!   [`neighbor`]).
//! - [`Monitor`]: the kernel's notifications about changes of these.
//! - [`Netns`]: opens a network namespace and runs code inside it.
//! - [`sysctl`]: reads and writes the files below `/proc/sys`.
//! - [`ethtool`]: switches a device's features, and counts its receive queues.
//! - [`bpffs`]: mounts a BPF file system.
//!
//! **Look-ups return `Result<Option<_>>`.** `None` means that the kernel answered "no such device" (or table entry, or file). A
//! look-up that could not be made, because descriptors or memory ran out, a signal arrived or the hardware failed (EMFILE, ENOMEM,
//! EINTR, EIO), is an error. The caller must not take it for absence.
//!
//! **Calls block, but wait for the kernel only.** The kernel handles an rtnetlink request within the system call that sends it, so an
//! asynchronous socket would wait at the same place, for the same lock. Async code calls these functions directly on a thread that
//! may wait for the kernel. heddle's host task is such a thread.
//!
//! `heddle-host`, `heddle-io` and `heddle-cni` decide what to add or delete.

#![forbid(unsafe_code)]

pub mod address;
pub mod bpffs;
mod error;
pub mod ethtool;
pub mod link;
pub mod monitor;
pub mod neighbor;
pub mod netlink;
pub mod netns;
pub mod route;
mod socket;
pub mod sysctl;

pub use address::Address;
pub use error::LinuxError;
pub use link::{Link, VethPair, link_index};
pub use monitor::{Changes, Monitor};
pub use neighbor::{Neighbor, NeighborEntry, NeighborState};
pub use netlink::Netlink;
pub use netns::{Netns, NetnsError};
pub use route::{NextHop, Resolved, Route};
