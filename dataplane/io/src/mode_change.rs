//! Changes the mode of a device's XDP program without letting a packet pass to the kernel.
//!
//! The kernel attaches no program in one mode while there is one in the other (`dev_xdp_attach`), and cannot replace one by the
//! other at once. So there is a moment without any program, in which the node's kernel would receive what the pod sends. Packets
//! that wait in a CPU's backlog meet no program in generic mode either once it is removed, however long after. So a filter behind
//! the programs drops everything first. It stays when this process ends in the middle, and afterwards too: the program in the new
//! mode leaves it nothing to do.

use heddle_linux::Link;

use crate::error::XdpError;
use crate::mode::XdpMode;
use crate::program::Program;

/// Removes the program that a device has in another mode than `mode`. The device is closed behind it.
pub(crate) fn make_way(program: &Program, link: &Link, mode: XdpMode) -> Result<(), XdpError> {
    let attached = link.xdp_program.map(|_| match link.xdp_generic {
        true => XdpMode::Generic,
        false => XdpMode::Native,
    });
    let Some(other) = attached.filter(|attached| *attached != mode) else {
        return Ok(());
    };
    program.keep_from_kernel(&link.name, link.index)?;
    program.detach(&link.name, link.index, other)?;
    tracing::info!(
        interface = link.name,
        "the mode of the XDP program changes from {other} to {mode}"
    );
    Ok(())
}
