//! The sysctls of the host port's interface.

use heddle_linux::{LinuxError, sysctl};

use crate::error::HostError;

/// The sysctls of the host port's node end, with `IFACE` for its name; no other interface is changed.
///
/// Forwarding is on because pods' traffic to the outside comes in here. `rp_filter` is 0; the kernel uses the larger value
/// of `all` and this one, and 1 and 2 work as well. Redirects are off because they would name routes that pods do not
/// have.
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

/// Logs a warning if this node does not forward, because its pods do not reach the outside then. heddle does not change the
/// switch; that is the administrator's decision.
pub fn warn_without_forwarding() {
    for (key, family) in [
        ("net/ipv4/ip_forward", "IPv4"),
        ("net/ipv6/conf/all/forwarding", "IPv6"),
    ] {
        if sysctl::read(key).is_ok_and(|value| value.as_deref() == Some("0")) {
            tracing::warn!("sysctl {key} is 0, so pods of this node do not reach the outside by {family}: set it to 1");
        }
    }
}

/// Reads a sysctl.
///
/// # Errors
/// The kernel has no such key, or it cannot be read.
pub fn read(key: &str) -> Result<String, HostError> {
    sysctl::read(key)?
        .ok_or_else(|| LinuxError::step(format!("reading sysctl {key}"))(std::io::ErrorKind::NotFound.into()).into())
}
