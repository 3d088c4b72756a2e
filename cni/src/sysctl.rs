//! The IPv6 sysctls of one interface. `/proc/sys/net` shows the namespace of the thread that opens it.

use std::fs;
use std::io;
use std::path::Path;

use crate::rtnl::KernelError;

const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Whether the kernel has IPv6 at all (it may be booted with `ipv6.disable=1`).
#[must_use]
pub fn ipv6_exists() -> bool {
    Path::new(IPV6).exists()
}

/// Sets IPv6 sysctls of an interface; does nothing on a kernel without IPv6.
///
/// # Errors
/// One cannot be written.
pub fn set_ipv6(ifname: &str, values: &[(&str, &str)]) -> Result<(), KernelError> {
    if !ipv6_exists() {
        return Ok(());
    }
    for (key, value) in values {
        let path = format!("{IPV6}/{ifname}/{key}");
        match fs::write(&path, value) {
            Ok(()) => {}
            // A read-only /proc/sys that already holds the value does no harm.
            Err(_) if fs::read_to_string(&path).is_ok_and(|found| found.trim() == *value) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(KernelError::step(format!(
                    "setting {path}={value} (has the interface no IPv6?)"
                ))(e));
            }
            Err(e) => return Err(KernelError::step(format!("setting {path}={value}"))(e)),
        }
    }
    Ok(())
}
