//! Checks before AF_XDP is used: the kernel's release and the thread's capabilities.

use std::fs;

use crate::error::XdpError;
use crate::kernel::{KernelFitness, kernel_release};

/// The needed capabilities by bit (include/uapi/linux/capability.h), with the use of each.
const NEEDED: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN (devices, XDP)"),
    (13, "CAP_NET_RAW (AF_XDP sockets)"),
    // CAP_SYS_ADMIN includes CAP_BPF.
    (39, "CAP_BPF or CAP_SYS_ADMIN (the XDP program)"),
];
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Checks the kernel's release and the capabilities of the calling thread.
///
/// # Errors
/// The kernel has no multi-buffer AF_XDP or may panic, or a capability is missing.
pub fn check() -> Result<(), XdpError> {
    let release = kernel_release().map_err(|error| XdpError::kernel("read the kernel's release", error))?;
    check_kernel(&release)?;
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(|error| XdpError::kernel("read /proc/thread-self/status", error))?;
    check_capabilities(&status)
}

fn check_kernel(release: &str) -> Result<(), XdpError> {
    let release = release.to_owned();
    match KernelFitness::of(&release) {
        KernelFitness::Fit => Ok(()),
        KernelFitness::TooOld => Err(XdpError::KernelTooOld { release }),
        KernelFitness::Panics => Err(XdpError::KernelPanics { release }),
        KernelFitness::MayPanic => Err(XdpError::KernelMayPanic { release }),
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
    fn unfit_kernels_are_refused_by_name() {
        for bad in ["5.15.0-91-generic", "6.16.9", "6.17.0-5-generic"] {
            let said = check_kernel(bad).unwrap_err().to_string();
            assert!(said.contains(bad) && !said.contains('\n'), "{said}");
        }
        for good in ["6.6.0", "6.18.44", "odd"] {
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
