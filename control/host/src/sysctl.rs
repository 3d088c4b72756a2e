//! Sysctls of the node's network namespace, by their files below `/proc/sys`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::HostError;

/// What the node's end of the host port needs, with `IFACE` for its name; no other interface is touched.
///
/// Forwarding: pods' traffic to the outside comes in here. `rp_filter` 0: the larger of `all` and this counts, and 1 and 2
/// work as well. Redirects would tell pods of ways that do not exist for them.
pub const HOST_INTERFACE: &[(&str, &str)] = &[
    ("net/ipv4/conf/IFACE/forwarding", "1"),
    ("net/ipv4/conf/IFACE/rp_filter", "0"),
    ("net/ipv4/conf/IFACE/accept_redirects", "0"),
    ("net/ipv4/conf/IFACE/send_redirects", "0"),
    ("net/ipv6/conf/IFACE/disable_ipv6", "0"),
    ("net/ipv6/conf/IFACE/accept_ra", "0"),
    ("net/ipv6/conf/IFACE/accept_dad", "0"),
    ("net/ipv6/conf/IFACE/dad_transmits", "0"),
    ("net/ipv6/conf/IFACE/accept_redirects", "0"),
    ("net/ipv6/conf/IFACE/forwarding", "1"),
];

fn file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// Whether this kernel speaks IPv6 at all.
#[must_use]
pub fn has_ipv6() -> bool {
    file("net/ipv6/conf").exists()
}

/// Says so when this node does not forward: then pods do not reach the outside, and the switch is the administrator's.
pub fn warn_without_forwarding() {
    for (key, family) in [
        ("net/ipv4/ip_forward", "IPv4"),
        ("net/ipv6/conf/all/forwarding", "IPv6"),
    ] {
        if read(key).is_ok_and(|value| value == "0") {
            tracing::warn!("sysctl {key} is 0: pods of this node do not reach the outside by {family}");
        }
    }
}

/// Reads a sysctl.
///
/// # Errors
/// It is not there or cannot be read.
pub fn read(key: &str) -> Result<String, HostError> {
    let path = file(key);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(HostError::Sysctl { path, source }),
    }
}

/// Writes a sysctl; one of IPv6 is left alone where the kernel has none.
///
/// # Errors
/// It is not there or cannot be written.
pub fn write(key: &str, value: &str) -> Result<(), HostError> {
    if key.starts_with("net/ipv6/") && !has_ipv6() {
        return Ok(());
    }
    let path = file(key);
    fs::write(&path, value).map_err(|source| HostError::Sysctl { path, source })
}

/// Writes a sysctl that need not be there.
///
/// # Errors
/// It is there and cannot be written.
pub fn write_optional(key: &str, value: &str) -> Result<(), HostError> {
    match write(key, value) {
        Err(HostError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
