//! The parameters of the comparison on two nodes, and the MTU of the network between them.

use std::time::Duration;

use heddle_lab::{Lab, LabError, NetNs, run};

/// The octets that VXLAN over IPv4 adds to a packet.
pub(super) const OVERHEAD: u32 = heddle_wire::vxlan::OVERHEAD_V4 as u32;
/// The pause after which a worker that may sleep sleeps.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// The parameters of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct NodesPlan {
    /// The cores of the workers of the two nodes.
    pub cores: [usize; 2],
    /// The MTU of the network between the nodes.
    pub mtu: u32,
    /// Rounds; every path has a turn in each.
    pub rounds: u32,
    /// The duration of each run.
    pub time: Duration,
}

/// Sets the MTU of a node's uplink, of its other end, and of the bridge between the nodes.
pub(super) fn set_mtu(lab: &Lab, ns: &NetNs, name: &str, mtu: u32) -> Result<(), LabError> {
    let (mtu, port) = (mtu.to_string(), format!("to-{name}"));
    let set = |device: &str| run("ip", &["link", "set", device, "mtu", &mtu]).map(drop);
    ns.enter(|| set("eth0"))?;
    lab.outside().enter(|| set(&port).and_then(|()| set("br0")))
}
