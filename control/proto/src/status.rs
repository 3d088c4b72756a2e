//! `GET /v1/status`: everything that `heddle status` prints.
//!
//! Counters count from the start of this agent process. Lists are sorted for printing (ports, attachments and workers by
//! number). Drop reasons, their classes and table names are text here, because the enums are in the engine.

mod change_times;
mod nodes;
mod source;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use change_times::ChangeTimes;
pub use nodes::{NodeStatus, UplinkStatus};
pub use source::{SourceKindStatus, SourceStatus};

use crate::{Attachment, Named, PodRef, Policy};

/// The state of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent itself.
    pub agent: AgentStatus,
    /// The source of objects.
    pub source: SourceStatus,
    /// The tables published last.
    pub snapshot: SnapshotStatus,
    /// The node's kernel state: the host port with its addresses and routes, the nftables table, sysctls, XDP programs.
    #[serde(default)]
    pub host: HostPortStatus,
    /// The rows of `heddle check` about what others can change, evaluated at the start and twice a minute.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// The uplink.
    #[serde(default)]
    pub uplink: UplinkStatus,
    /// The other nodes, by name.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// The worker threads.
    pub workers: Vec<WorkerStatus>,
    /// The ports.
    pub ports: Vec<PortStatus>,
    /// Drops by reason since the agent's start, at all ports, including ports that are closed now. Only reasons that
    /// occurred.
    #[serde(default)]
    pub drops: Vec<ReasonDrops>,
    /// The sums of [`drops`](Self::drops) by class; only classes that occurred.
    #[serde(default)]
    pub drops_by_class: BTreeMap<String, u64>,
    /// Sizes of tables by name (`endpoints`, `addresses`, `identities`, `policies`, `frontends`, `backends` and others).
    pub tables: BTreeMap<String, u64>,
    /// The flow table.
    pub flows: FlowStatus,
    /// Received fragments.
    #[serde(default)]
    pub fragments: FragmentStatus,
    /// The packet buffers.
    pub frames: FrameStatus,
    /// The objects that are refused now.
    pub rejections: Vec<RejectionStatus>,
    /// The number of refusals since the start, including objects that were corrected later.
    pub rejections_total: u64,
    /// The attachments.
    pub attachments: Vec<Attachment>,
    /// The reason for which changes of the attachments are in the agent's memory only, not in the state directory. The agent
    /// writes again every second. `None` while the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_not_kept: Option<String>,
    /// Packets that policies denied, by policy and pod.
    #[serde(default)]
    pub denied: Vec<Denied>,
    /// Packets denied by policies that have no counter of their own.
    #[serde(default)]
    pub denied_by_others: u64,
}

/// Packets that one rule, default denial or refused policy denied for one pod, since the agent's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The policy and rule that denied them.
    pub policy: Policy,
    /// The pod whose policy it is: the sender for `egress`, the receiver for `ingress`. `None`: the pod was deleted.
    pub pod: Option<Named>,
    /// Packets.
    pub packets: u64,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonDrops {
    /// The drop reason, as in [`PortStatus::dropped`].
    pub reason: String,
    /// The reason's class (`policy`, `spoofing`, `capacity`, ...).
    pub class: String,
    /// Packets.
    pub packets: u64,
}

/// The agent process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The version of heddle.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The process id.
    pub pid: u32,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// The number of this start. Each takeover raises it. Flow entries of an earlier start are revalidated.
    pub start: u32,
    /// The AF_XDP mode and other properties of this machine that affect performance, as text.
    #[serde(default)]
    pub mode: String,
}

/// The published tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The version published last; 0 if there is none.
    pub version: u64,
    /// The version that all workers have taken: the oldest one in use.
    pub acknowledged: u64,
    /// Seconds since the last publication.
    pub age_seconds: u64,
    /// The time that changes of objects took.
    #[serde(default)]
    pub change_times: ChangeTimes,
}

/// The node's kernel state, compared with what the objects ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPortStatus {
    /// `true` if a comparison has found no difference that is left. CNI's STATUS fails otherwise.
    pub works: bool,
    /// Seconds since the last comparison that left no difference. `None`: there was none yet.
    pub verified_seconds: Option<u64>,
    /// The differences that could not be removed. They are tried again.
    pub differences: Vec<String>,
    /// The number of differences that others have made and that heddle has removed.
    pub repaired: u64,
}

/// One row of `heddle check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// The subject.
    pub what: String,
    /// `true` if it is as it should be.
    pub ok: bool,
    /// The finding.
    pub value: String,
    /// The advice; empty if nothing has to be done.
    #[serde(default)]
    pub advice: String,
}

/// One worker thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The worker's number.
    pub worker: u8,
    /// The core that it was assigned. If the kernel refused to pin it there, it runs on any core and the log has a
    /// warning.
    pub core: Option<u32>,
    /// Turns of its loop.
    pub turns: u64,
    /// Turns that found at least one packet.
    pub busy_turns: u64,
    /// The number of times that it went to sleep.
    pub sleeps: u64,
    /// The number of times that a packet, another worker or control woke it.
    #[serde(default)]
    pub wakeups: u64,
    /// The share of turns that found at least one packet, 0 to 1, within the last second.
    pub busy_ratio: f64,
    /// The number of bursts by size: the key is the largest size of the class (1, 2, 4, … 64).
    pub bursts: BTreeMap<u32, u64>,
    /// The snapshot version that all workers have taken. A worker may read a newer one.
    pub snapshot: u64,
    /// The ports that it owns.
    pub ports: u32,
    /// Packets handed to other workers.
    pub handed_over: u64,
}

/// The kind of endpoint at the other side of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortRole {
    /// A pod.
    Pod,
    /// The node's own network stack (`heddle0`).
    Host,
    /// A NIC.
    Uplink,
}

impl std::fmt::Display for PortRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Host => "host",
            Self::Uplink => "uplink",
        })
    }
}

/// One port with its counters.
///
/// Every received packet is forwarded, answered, absorbed or dropped, and counted at the port where it came in:
/// `rx_packets = forwarded + answered + absorbed + sum(dropped)`, except for packets in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The port's number.
    pub port: u16,
    /// The name, as `replay` uses it: `pod:NS/NAME`, `host`, `uplink`.
    pub name: String,
    /// The kind of endpoint at its other side.
    pub role: PortRole,
    /// The pod at its other side, if it is a pod of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The network interface.
    pub interface: String,
    /// The interface's queue.
    pub queue: u32,
    /// The mode of its XDP program, `native` or `generic`; empty: an agent of an earlier version.
    #[serde(default)]
    pub xdp_mode: String,
    /// The worker that owns it.
    pub worker: u8,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received here that were forwarded.
    pub forwarded: u64,
    /// Fragments that heddle cut such packets into and sent, without the first fragment of each, which counts as the packet.
    #[serde(default)]
    pub fragments: u64,
    /// Such fragments that were lost because a ring on their way out was full.
    #[serde(default)]
    pub fragments_lost: u64,
    /// Packets received here that heddle answered itself (ARP, neighbor discovery, rejects, time exceeded).
    pub answered: u64,
    /// Packets received here that need no answer (DAD probes, MLD, router solicitations).
    pub absorbed: u64,
    /// Packets received here and dropped, by reason; only reasons that occurred.
    pub dropped: BTreeMap<String, u64>,
    /// The kernel's statistics of the socket that are not zero (`rx_dropped`, `rx_ring_full`, `rx_fill_ring_empty_descs`, …).
    #[serde(default)]
    pub xsk: BTreeMap<String, u64>,
    /// Large TCP segments that were sent with their segment size.
    #[serde(default)]
    pub segments: SegmentStatus,
    /// The number of entries in its rings now.
    #[serde(default)]
    pub rings: RingStatus,
    /// Frames in its rings.
    pub frames: u32,
}

/// Large TCP segments of a port, which it sends with their segment size by a socket of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentStatus {
    /// Segments that the kernel has taken.
    pub sent: u64,
    /// Attempts that the kernel refused for lack of memory, or because the interface was down. A packet that is refused twice is
    /// dropped as `tx-ring-full`.
    pub refused: u64,
    /// Packets that could not be sent this way, and were dropped.
    pub invalid: u64,
}

/// The number of entries in a port's rings that the other side has not taken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatus {
    /// Received packets that the worker has not taken yet.
    pub rx: u32,
    /// Frames that the kernel can receive into.
    pub fill: u32,
    /// Packets that the kernel has not sent yet.
    pub tx: u32,
    /// Sent frames that the worker has not taken back yet.
    pub completion: u32,
}

/// The flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Entries in use. Each connection has two entries.
    pub used: u64,
    /// The capacity in entries.
    pub capacity: u64,
    /// Entries inserted since the start.
    pub inserted: u64,
    /// Entries that expired.
    pub expired: u64,
    /// New connections refused because the table was full.
    pub refused_full: u64,
    /// New connections refused because a quota was reached: of the pod, its namespace, the source prefix outside of the
    /// node, or the masqueraded destination.
    pub refused_quota: u64,
    /// Entries without a complete handshake that new connections displaced because the table was full.
    #[serde(default)]
    pub displaced: u64,
    /// Entries taken over from the previous process.
    pub taken_over: u64,
    /// Entries of the previous process that could not be kept (half-written, or without their other direction).
    pub discarded: u64,
}

/// Received fragments of IP datagrams, and the table that connects later fragments with the first one of their
/// datagram. Dropped fragments are counted among the ports' drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FragmentStatus {
    /// First fragments.
    pub first: u64,
    /// Later fragments that followed the first of their datagram.
    pub followed: u64,
    /// Later fragments that arrived before the first and were held.
    pub waited: u64,
    /// Datagrams that are tracked now.
    pub datagrams: u64,
    /// The maximum number of tracked datagrams.
    pub datagrams_most: u64,
    /// Frames that are held now for fragments without their first.
    pub held_frames: u64,
    /// The maximum number of held frames.
    pub held_frames_most: u64,
}

/// The packet buffers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameStatus {
    /// The number of all frames.
    pub total: u32,
    /// The size of a frame in bytes.
    pub frame_size: u32,
    /// The maximum number of pod ports (`maxPods`). 64 frames are set aside for each.
    pub max_pods: u32,
    /// The number of frames by holder; the sum is `total`.
    pub holders: Vec<FrameHolder>,
}

/// The frames of one holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameHolder {
    /// The holder: `shared pool`, `pool of worker 0`, `worker 0`, `port 3 (pod:demo/client)` or `control`.
    pub holder: String,
    /// The number of frames.
    pub frames: u32,
}

/// An object that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionStatus {
    /// The file and line where it was read, or the API server.
    pub origin: String,
    /// Kind, namespace and name, as far as they are readable.
    pub object: String,
    /// The path of the field, such as `spec.podCIDRs[0]`; empty if the whole object is meant.
    #[serde(default)]
    pub field: String,
    /// The problem with the value, and what to do.
    pub message: String,
    /// True if the last good version of the object stays in use.
    #[serde(default)]
    pub last_good_serves: bool,
}

impl Status {
    /// Returns the class of a drop reason that occurred. `None`: an agent of an earlier version, which reports no classes.
    #[must_use]
    pub fn class_of(&self, reason: &str) -> Option<&str> {
        let drops = self.drops.iter().find(|drops| drops.reason == reason)?;
        Some(&drops.class)
    }
}

impl PortStatus {
    /// Returns the number of packets received here and dropped.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}

#[cfg(test)]
mod tests;
