//! What must hold before AF_XDP is tried: the kernel's release and the thread's capabilities.

use std::fs;

use crate::error::XdpError;

/// First kernel with multi-buffer AF_XDP (`XDP_USE_SG`).
const LEAST_KERNEL: (u32, u32) = (6, 6);

/// Capabilities by bit (include/uapi/linux/capability.h), and what each is for.
const NEEDED: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN (devices, XDP)"),
    (13, "CAP_NET_RAW (AF_XDP sockets)"),
    // CAP_SYS_ADMIN stands in for CAP_BPF.
    (39, "CAP_BPF or CAP_SYS_ADMIN (the XDP program)"),
];
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Checks kernel and capabilities of the calling thread.
pub(crate) fn check() -> Result<(), XdpError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| XdpError::kernel("read /proc/sys/kernel/osrelease", error))?;
    check_kernel(release.trim())?;
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(|error| XdpError::kernel("read /proc/thread-self/status", error))?;
    check_capabilities(&status)
}

fn check_kernel(release: &str) -> Result<(), XdpError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < LEAST_KERNEL => Err(XdpError::KernelTooOld {
            release: release.to_owned(),
        }),
        // An unreadable release is no reason to refuse: the kernel will say itself what it cannot do.
        _ => Ok(()),
    }
}

fn check_capabilities(status: &str) -> Result<(), XdpError> {
    let Some(effective) = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|word| u64::from_str_radix(word.trim(), 16).ok())
    else {
        return Ok(());
    };
    let has = |bit: u32| effective >> bit & 1 == 1 || (bit == CAP_BPF && effective >> CAP_SYS_ADMIN & 1 == 1);
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(bit, _)| !has(*bit))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(XdpError::MissingCapability {
            missing: missing.join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_6_are_refused() {
        for old in ["5.15.0-91-generic", "6.1.0-18-amd64", "6.5.13", "4.19"] {
            assert!(check_kernel(old).unwrap_err().to_string().contains(old), "{old}");
        }
        for good in ["6.6.0", "6.12.9+deb13-amd64", "7.0.0-rc1", "10.2", "odd"] {
            check_kernel(good).unwrap();
        }
    }

    #[test]
    fn the_missing_capabilities_are_named() {
        let status = |bits: u64| format!("Name:\tx\nCapEff:\t{bits:016x}\nSeccomp:\t0\n");
        let all = 1 << 12 | 1 << 13 | 1 << 39;
        check_capabilities(&status(all)).unwrap();
        check_capabilities(&status(1 << 12 | 1 << 13 | 1 << 21)).unwrap();
        let error = check_capabilities(&status(1 << 13)).unwrap_err().to_string();
        assert!(
            error.contains("CAP_NET_ADMIN") && error.contains("CAP_BPF") && !error.contains("CAP_NET_RAW"),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }
}
