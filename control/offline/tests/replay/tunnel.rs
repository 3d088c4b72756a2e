//! The tunnel between the nodes of `cluster`.

use heddle_wire::{Proto, parse, vxlan};

/// Returns the inner frame of a packet of the tunnel.
pub fn inner(frame: &[u8]) -> Option<&[u8]> {
    let p = parse(frame, frame.len()).ok()?;
    if (p.proto, p.dport) != (Proto::UDP, vxlan::PORT) {
        return None;
    }
    frame.get(vxlan::open(frame, &p, VNI).ok()?..)
}

/// The network identifier of the default configuration.
pub const VNI: u32 = 1;
