//! The test of AF_XDP in a scratch namespace, guarded by the marker. `heddle check` and every start of the agent run it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use heddle_io::{ProbeError, Probed, XdpError, kernel_release};

use super::marker::{EarlierTest, Marker, MarkerError};

/// The longest time that the test may take. It waits at most 3 s for a busy queue and 2 s for packets.
pub const WITHIN: Duration = Duration::from_secs(10);

/// AF_XDP was not tried, or does not work.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The kernel or the privileges forbid the test.
    #[error(transparent)]
    Unfit(#[from] XdpError),
    /// The marker of an earlier test forbids the test.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// AF_XDP does not work.
    #[error(transparent)]
    Failed(#[from] ProbeError),
    /// The kernel's release or the boot's id cannot be read.
    #[error("cannot read the kernel's release and the boot's id: {0}")]
    System(#[from] io::Error),
}

/// A test that has passed.
#[derive(Debug)]
pub struct Passed {
    /// The duration of the test.
    pub took: Duration,
    /// `true` if an earlier test was interrupted, so that this one repeats it.
    pub repeated: bool,
    /// The outcome of the test in generic mode with a large TCP segment.
    pub segments: Result<(), ProbeError>,
}

/// Sends packets through AF_XDP in a network namespace of its own, unless the kernel or an earlier test forbid it.
///
/// # Errors
/// The test is forbidden, or AF_XDP does not work.
pub fn test(state_dir: &Path) -> Result<Passed, ScratchError> {
    heddle_io::preflight()?;
    let kernel = kernel_release()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let (marker, earlier) = Marker::create(state_dir, &kernel, boot.trim())?;
    let outcome = heddle_io::probe(WITHIN);
    if matches!(outcome, Err(ProbeError::Late(_))) {
        // The test still runs, so the marker stays: the machine may still go down.
        drop(marker);
    } else {
        marker.remove()?;
    }
    let Probed { took, segments } = outcome?;
    Ok(Passed {
        took,
        repeated: earlier == EarlierTest::Interrupted,
        segments,
    })
}
