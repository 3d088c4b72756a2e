//! The state of the uplink's ports that the controller keeps.

use std::time::Instant;

use heddle_io::uplink::Steering;

use super::attachments::Closed;

/// The controller's part that concerns the uplink.
#[derive(Debug, Default)]
pub(super) struct UplinkPorts {
    /// The time since which the ports may be opened: the first tables are published.
    pub(super) due_since: Option<Instant>,
    /// The reason for which the ports are not open, and the next try.
    pub(super) closed: Option<Closed>,
    /// The packets that the program was told are heddle's; `None` before the first time, and after an error.
    pub(super) steering: Option<Steering>,
    /// `true` if the steering may differ from the tables.
    pub(super) is_steering_stale: bool,
}
