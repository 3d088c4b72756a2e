//! The sysctls of the host port's two interfaces.

use heddle_linux::{LinuxError, sysctl};

use crate::error::HostError;
use crate::well_known::{INTERFACE, PEER};

/// The sysctls of the host port's node end, with `IFACE` for its name; no other interface is changed.
///
/// Forwarding is on because pods' traffic to the outside comes in here. `accept_local` is on because ICMP errors come in here
/// that have an address of the node as their source. `rp_filter` is 2 (loose), because 1 refuses them whatever `accept_local`
/// is, and the kernel uses the larger value of `all` and this one. `route_localnet` is on because processes of the node reach host ports at
/// 127.0.0.1, and the kernel translates these packets only here; heddle sends no packet with such an address. Redirects are off because they would name routes that pods do not
/// have.
const HOST_INTERFACE: &[(&str, &str)] = &[
    ("net/ipv4/conf/IFACE/forwarding", "1"),
    ("net/ipv4/conf/IFACE/accept_local", "1"),
    ("net/ipv4/conf/IFACE/rp_filter", "2"),
    ("net/ipv4/conf/IFACE/route_localnet", "1"),
    ("net/ipv4/conf/IFACE/accept_redirects", "0"),
    ("net/ipv4/conf/IFACE/send_redirects", "0"),
    ("net/ipv6/conf/IFACE/disable_ipv6", "0"),
    ("net/ipv6/conf/IFACE/accept_ra", "0"),
    ("net/ipv6/conf/IFACE/accept_dad", "0"),
    ("net/ipv6/conf/IFACE/dad_transmits", "0"),
    ("net/ipv6/conf/IFACE/accept_redirects", "0"),
    ("net/ipv6/conf/IFACE/forwarding", "1"),
];
/// The sysctl of the dataplane's end, which needs no address of its own.
const PEER_INTERFACE: &[(&str, &str)] = &[("net/ipv6/conf/IFACE/disable_ipv6", "1")];

/// Returns the planned sysctls of both ends, without the IPv6 ones if the kernel has no IPv6.
///
/// # Errors
/// The kernel could not be asked.
pub(crate) fn of_ends() -> Result<Vec<(String, &'static str)>, HostError> {
    let has_ipv6 = sysctl::has_ipv6()?;
    let ends = [(INTERFACE, HOST_INTERFACE), (PEER, PEER_INTERFACE)];
    let all = ends.iter().flat_map(|(name, values)| {
        values
            .iter()
            .filter(|(key, _)| has_ipv6 || !key.starts_with("net/ipv6/"))
            .map(|(key, value)| (key.replace("IFACE", name), *value))
    });
    Ok(all.collect())
}

/// Reads the planned sysctls of both ends.
///
/// # Errors
/// The kernel could not be asked.
pub(crate) fn read_ends() -> Result<Vec<SysctlValue>, HostError> {
    of_ends()?
        .into_iter()
        .map(|(key, planned)| {
            let now = sysctl::read(&key)?;
            Ok(SysctlValue { key, planned, now })
        })
        .collect()
}

/// A sysctl with its planned value and the value that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlValue {
    /// The key, as `net/ipv4/ip_forward`.
    pub key: String,
    /// The planned value.
    pub planned: &'static str,
    /// The value now; `None` if the kernel has no such key.
    pub now: Option<String>,
}

impl SysctlValue {
    /// Returns `true` if the sysctl has another value than the planned one.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now != self.planned)
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
