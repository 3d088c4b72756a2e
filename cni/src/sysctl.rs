//! The sysctls of one interface. `/proc/sys/net` shows the namespace of the thread that opens it.

use std::fs;
use std::path::Path;

use crate::kernel::KernelError;

const IPV4: &str = "/proc/sys/net/ipv4/conf";
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Sets IPv4 sysctls of an interface (`net.ipv4.conf.IF.KEY`).
///
/// # Errors
/// One cannot be written.
pub fn set_ipv4(ifname: &str, values: &[(&str, &str)]) -> Result<(), KernelError> {
    values
        .iter()
        .try_for_each(|(key, value)| set(&format!("{IPV4}/{ifname}/{key}"), value))
}

/// Sets IPv6 sysctls of an interface (`net.ipv6.conf.IF.KEY`); does nothing on a kernel without IPv6 (`ipv6.disable=1`).
///
/// # Errors
/// One cannot be written.
pub fn set_ipv6(ifname: &str, values: &[(&str, &str)]) -> Result<(), KernelError> {
    if !Path::new(IPV6).exists() {
        return Ok(());
    }
    values
        .iter()
        .try_for_each(|(key, value)| set(&format!("{IPV6}/{ifname}/{key}"), value))
}

fn set(path: &str, value: &str) -> Result<(), KernelError> {
    match fs::write(path, value) {
        // A read-only /proc/sys that already holds the value does no harm.
        Err(_) if fs::read_to_string(path).is_ok_and(|found| found.trim() == value) => Ok(()),
        written => written.map_err(KernelError::step(format!("setting {path}={value}"))),
    }
}
