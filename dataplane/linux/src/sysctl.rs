//! Sysctls, by their files below `/proc/sys`. Files below `net/` belong to the network namespace of the thread that opens them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc::ENOENT;

use crate::error::{LinuxError, absent_is_none};

/// The IP version of an interface's sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// `net/ipv4/conf/`
    V4,
    /// `net/ipv6/conf/`
    V6,
}

fn file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// Returns the key of an interface's sysctl, for example `net/ipv4/conf/eth0/forwarding`.
#[must_use]
pub fn interface_key(version: IpVersion, interface: &str, name: &str) -> String {
    let family = match version {
        IpVersion::V4 => "ipv4",
        IpVersion::V6 => "ipv6",
    };
    format!("net/{family}/conf/{interface}/{name}")
}

/// Returns true if this kernel has IPv6. It has none with `ipv6.disable=1`.
///
/// # Errors
/// The kernel could not be asked.
pub fn has_ipv6() -> Result<bool, LinuxError> {
    let path = file("net/ipv6/conf");
    path.try_exists()
        .map_err(LinuxError::step(format!("looking for {}", path.display())))
}

/// Reads a sysctl, given as `net/ipv4/ip_forward`; `None` if the kernel has no such key.
///
/// # Errors
/// It cannot be read.
pub fn read(key: &str) -> Result<Option<String>, LinuxError> {
    let text = absent_is_none(fs::read_to_string(file(key)), &[ENOENT])
        .map_err(LinuxError::step(format!("reading sysctl {key}")))?;
    Ok(text.map(|text| text.trim().to_owned()))
}

/// Sets a sysctl.
///
/// # Errors
/// The kernel has no such key, or the key cannot be written and does not have this value already.
pub fn write(key: &str, value: &str) -> Result<(), LinuxError> {
    write_file(&file(key), value).map_err(LinuxError::step(format!("setting sysctl {key} to {value:?}")))
}

/// Sets a sysctl and returns `false` if the kernel has no such key.
///
/// # Errors
/// The key cannot be written and does not have this value already.
pub fn write_if_present(key: &str, value: &str) -> Result<bool, LinuxError> {
    absent_is_none(write_file(&file(key), value), &[ENOENT])
        .map(|written| written.is_some())
        .map_err(LinuxError::step(format!("setting sysctl {key} to {value:?}")))
}

/// Sets sysctls of an interface. On a kernel without IPv6 the IPv6 ones are left out.
///
/// # Errors
/// A sysctl cannot be written.
pub fn write_interface(version: IpVersion, interface: &str, values: &[(&str, &str)]) -> Result<(), LinuxError> {
    if version == IpVersion::V6 && !has_ipv6()? {
        return Ok(());
    }
    values
        .iter()
        .try_for_each(|(name, value)| write(&interface_key(version, interface, name), value))
}

fn write_file(path: &Path, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        // With a read-only /proc/sys, a key that has the value already is no error.
        Err(_) if fs::read_to_string(path).is_ok_and(|found| found.trim() == value.trim()) => Ok(()),
        written => written,
    }
}
