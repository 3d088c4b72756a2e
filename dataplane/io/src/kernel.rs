//! Judges by a kernel's release whether heddle can run on it.
//!
//! A kernel before 6.6 has no multi-buffer AF_XDP. A kernel with commit 30f241fcf52a ("xsk: Fix immature cq descriptor
//! production") and without its fix 0ebc27a4c67d panics when a copy-mode socket sends an IP packet into a veth
//! (CVE-2025-40290): 6.16.8 and all later 6.16, 6.17 before 6.17.11, and release candidates of 6.18. Releases of distributions
//! whose name does not contain the stable release ("6.17.0-5-generic") count as affected.
//!
//! This module reads the release only. [`probe`](fn@crate::probe) tests AF_XDP itself.

use std::fs;
use std::io;

/// The first kernel with multi-buffer AF_XDP (`XDP_USE_SG`).
const LEAST: (u32, u32) = (6, 6);

/// The fitness of a kernel release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelFitness {
    /// No fault is known. A release that cannot be parsed counts as fit too, because the kernel refuses what it cannot do.
    Fit,
    /// The kernel has no multi-buffer AF_XDP.
    TooOld,
    /// The kernel panics when heddle sends a packet.
    Panics,
    /// The kernel belongs to a series with releases that panic, and its name does not contain its stable release.
    MayPanic,
}

impl KernelFitness {
    /// Judges a release as `uname -r` prints it.
    #[must_use]
    pub fn of(release: &str) -> Self {
        let Some(Release {
            major,
            minor,
            patch,
            rest,
        }) = Release::parse(release)
        else {
            return Self::Fit;
        };
        match (major, minor, patch) {
            (major, minor, _) if (major, minor) < LEAST => Self::TooOld,
            (6, 16, Some(0)) if rest.is_empty() => Self::Fit,
            (6, 16, Some(1..8)) => Self::Fit,
            (6, 16, Some(8..)) | (6, 17, Some(1..11)) => Self::Panics,
            (6, 17, Some(0)) if rest.is_empty() => Self::Panics,
            (6, 17, Some(11..)) => Self::Fit,
            (6, 16 | 17, _) => Self::MayPanic,
            (6, 18, None | Some(0)) if rest.starts_with("-rc") => Self::MayPanic,
            _ => Self::Fit,
        }
    }
}

/// The first kernel with multi-buffer XDP in generic mode.
const LEAST_GENERIC: (u32, u32) = (6, 9);

/// Returns true if a kernel passes large packets to programs in generic mode in several buffers. Earlier ones copy each into one
/// buffer, for which they often lack memory. A release that cannot be parsed counts as one that does.
pub(crate) fn has_generic_multi_buffer(release: &str) -> bool {
    Release::parse(release).is_none_or(|Release { major, minor, .. }| (major, minor) >= LEAST_GENERIC)
}

/// A parsed release: `MAJOR.MINOR[.PATCH]` and the rest.
struct Release<'a> {
    major: u32,
    minor: u32,
    patch: Option<u32>,
    rest: &'a str,
}

impl<'a> Release<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (major, text) = number(text)?;
        let (minor, text) = number(text.strip_prefix('.')?)?;
        let (patch, rest) = match text.strip_prefix('.').and_then(number) {
            Some((patch, rest)) => (Some(patch), rest),
            None => (None, text),
        };
        Some(Self {
            major,
            minor,
            patch,
            rest,
        })
    }
}

/// Splits a decimal number off the front of a text.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Returns the running kernel's release.
///
/// # Errors
/// `/proc/sys/kernel/osrelease` cannot be read.
pub fn kernel_release() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generic_mode_takes_several_buffers_from_6_9_on() {
        for (release, expected) in [
            ("6.6.87", false),
            ("6.8.0-31-generic", false),
            ("6.9", true),
            ("6.12.57+deb13-amd64", true),
            ("7.0.0", true),
            ("odd", true),
        ] {
            assert_eq!(has_generic_multi_buffer(release), expected, "{release:?}");
        }
    }

    #[test]
    fn kernels_by_their_release() {
        use KernelFitness::{Fit, MayPanic, Panics, TooOld};
        for (release, expected) in [
            ("4.19", TooOld),
            ("5.15.0-91-generic", TooOld),
            ("6.1.0-18-amd64", TooOld),
            ("6.5.13", TooOld),
            ("6.6.0", Fit),
            ("6.12.57+deb13-amd64", Fit),
            ("6.15.11-arch1-1", Fit),
            ("6.16.0", Fit),
            ("6.16.0-12-generic", MayPanic),
            ("6.16-custom", MayPanic),
            ("6.16.7", Fit),
            ("6.16.8", Panics),
            ("6.16.12+deb14-amd64", Panics),
            ("6.17.0", Panics),
            ("6.17.0-rc7", MayPanic),
            ("6.17.0-5-generic", MayPanic),
            ("6.17", MayPanic),
            ("6.17.10-300.fc43.x86_64", Panics),
            ("6.17.11", Fit),
            ("6.17.12+deb14-rt-amd64", Fit),
            ("6.18.0-rc5", MayPanic),
            ("6.18.0", Fit),
            ("6.18.44-fc", Fit),
            ("7.0.0-rc1", Fit),
            ("10.2", Fit),
            ("odd", Fit),
            ("", Fit),
            ("99999999999.1", Fit),
        ] {
            assert_eq!(KernelFitness::of(release), expected, "{release:?}");
        }
    }
}
