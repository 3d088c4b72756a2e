//! AF_XDP tried for real, behind the marker: what `heddle check` and every start of the agent do.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use heddle_io::{ProbeError, XdpError, kernel_release};

use super::marker::{Before, Marker, MarkerError};

/// The longest that the test may take. It waits at most 3 s for a busy queue and 2 s for packets.
pub const WITHIN: Duration = Duration::from_secs(10);

/// AF_XDP was not tried, or does not work.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The kernel or the privileges forbid it.
    #[error(transparent)]
    Unfit(#[from] XdpError),
    /// An earlier test forbids it.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// It does not work.
    #[error(transparent)]
    Failed(#[from] ProbeError),
    /// The machine does not say who it is.
    #[error("reading the kernel's release and the boot's id: {0}")]
    System(#[from] io::Error),
}

/// A test that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// How long it took.
    pub took: Duration,
    /// An earlier one was interrupted.
    pub repeated: bool,
}

/// Tries AF_XDP in a network namespace of its own, unless the kernel or an earlier test forbid it.
///
/// # Errors
/// What does not work.
pub fn test(state_dir: &Path) -> Result<Passed, ScratchError> {
    heddle_io::preflight()?;
    let kernel = kernel_release()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let (marker, before) = Marker::put(state_dir, &kernel, boot.trim())?;
    let outcome = heddle_io::probe(WITHIN);
    if matches!(outcome, Err(ProbeError::Late(_))) {
        // It still runs: what becomes of the machine is not known yet.
        drop(marker);
    } else {
        marker.remove()?;
    }
    Ok(Passed {
        took: outcome?,
        repeated: before == Before::Interrupted,
    })
}
