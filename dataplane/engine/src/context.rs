//! The state that the stages share: a worker's own between bursts, and the context of one burst.

use heddle_flow::{Egress, FlowTable, FlowView, Millis, Origin};
use heddle_port::{BURST, FrameStore, Packet, PortId, WorkerPool};
use heddle_tables::{Endpoint, EndpointId, Generation, NextHopId, NodeId, Snapshot};
use heddle_wire::MacAddr;
use heddle_wire::vxlan::{OuterHeader, SeenHeader};

use crate::batch::Batch;
use crate::decide::BackendSelector;
use crate::error_budget::{ErrorBudget, ErrorLimits};
use crate::ingress::Ingress;
use crate::reason::DropReason;
use crate::reassembly::{Datagrams, FragmentConfig, FragmentTotals};
use crate::stage::new_flow::Refusals;
use crate::verdict::Verdict;

/// The configuration of the stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageConfig {
    /// The end of the time in which mid-stream TCP connections are adopted, after a start without a flow table. `Millis(0)`
    /// means that none are adopted.
    pub adopt_until: Millis,
    /// The limits of the ICMP errors for each ingress port.
    pub errors: ErrorLimits,
    /// The seed of the random choice among backends. Workers have different seeds; a replay has a fixed one.
    pub seed: u64,
    /// The limits for fragments of datagrams.
    pub fragments: FragmentConfig,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            adopt_until: Millis(0),
            errors: ErrorLimits::default(),
            seed: 0,
            fragments: FragmentConfig::default(),
        }
    }
}

/// The longest local reply that is not made in place: an ICMPv6 error (RFC 4443 section 2.4(c)) with its Ethernet header.
const SCRATCH: usize = 1280 + 14;

/// The limit of slow-path work for one burst. A packet costs one unit, and so does each source port that is tried for it after the
/// first. So no port keeps its worker from the other ports for longer than a few hundred microseconds a turn.
pub(crate) const SLOW_PATH_UNITS: u32 = 2 * BURST as u32;

/// The state of a worker's stages between bursts.
#[derive(Debug)]
pub struct Stages {
    pub(crate) config: StageConfig,
    /// ICMP errors that each port may still cause.
    pub(crate) errors: ErrorBudget,
    /// Units of slow-path work that the burst may still cause: see [`SLOW_PATH_UNITS`].
    pub(crate) slow_left: u32,
    /// The connections that the flow table refused lately.
    pub(crate) refusals: Refusals,
    /// Packets that took the slow path since the worker last read this count.
    pub(crate) slow: u64,
    /// Packets that were encapsulated and decapsulated since the worker last read these counts.
    pub(crate) encapsulated: u64,
    pub(crate) decapsulated: u64,
    /// The state of the random number generator.
    pub(crate) chance: u64,
    /// The buffer in which local replies and errors about packets of the tunnel are built.
    pub(crate) scratch: Box<[u8; SCRATCH]>,
    /// The datagrams with at least one received fragment, and the held fragments.
    pub(crate) datagrams: Datagrams,
}

impl Stages {
    /// Makes stages for ports whose numbers are below `ports`, with full budgets.
    #[must_use]
    pub fn new(config: StageConfig, ports: u16) -> Self {
        Self {
            config,
            errors: ErrorBudget::new(config.errors, ports),
            slow_left: 0,
            refusals: Refusals::new(),
            slow: 0,
            encapsulated: 0,
            decapsulated: 0,
            chance: config.seed,
            scratch: Box::new([0; SCRATCH]),
            datagrams: Datagrams::new(config.fragments, ports),
        }
    }

    /// Begins a turn: gives up the held fragments whose first one did not arrive in time. They are then in `batch`, with their verdicts.
    pub fn begin_turn(&mut self, batch: &mut Batch, now: Millis) {
        self.datagrams.expire(now);
        self.drop_given_up(batch);
    }

    /// Gives up the held fragments that came in by a port, because it is about to be closed. They are then in `batch`, with
    /// their verdicts.
    pub fn close(&mut self, batch: &mut Batch, port: PortId) {
        self.datagrams.close(port);
        self.errors.reset(port);
        self.drop_given_up(batch);
    }

    /// Moves the held fragments that were given up into the batch.
    #[inline]
    pub(crate) fn drop_given_up(&mut self, batch: &mut Batch) {
        while let Some((packet, ingress, reason)) = self.datagrams.take_given_up() {
            batch.push_reentered(packet, ingress, Verdict::drop(reason));
        }
    }

    /// Returns the fragment counts if they have changed since the last call.
    #[inline]
    pub fn fragments(&mut self) -> Option<FragmentTotals> {
        self.datagrams.changed_totals()
    }
}

/// The headers that packets need to leave by an egress.
#[derive(Clone, Copy)]
pub(crate) struct Link<'a> {
    /// The Ethernet addresses, destination first.
    pub(crate) macs: (MacAddr, MacAddr),
    /// The outer headers, if the packet goes by a tunnel.
    pub(crate) outer: Option<&'a OuterHeader>,
}

impl Link<'_> {
    const fn plain(dst: MacAddr, src: MacAddr) -> Self {
        Self {
            macs: (dst, src),
            outer: None,
        }
    }
}

/// The inputs of the stages for one burst. `pool` takes back the frames that a local reply does not need.
pub(crate) struct Context<'a> {
    pub(crate) stages: &'a mut Stages,
    pub(crate) pool: &'a mut WorkerPool,
    pub(crate) store: &'a FrameStore,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) flows: &'a FlowTable,
    pub(crate) now: Millis,
    pub(crate) ingress: Ingress,
    /// The endpoint behind the port, as the snapshot knows it.
    pub(crate) endpoint: &'a Endpoint,
    /// The neighbor of the uplink that the packet came from; `None` at other ports, and before the slow path.
    pub(crate) neighbor: Option<MacAddr>,
    /// The limit of the MSS option of the SYN or SYN-ACK that is in work; 0 means no limit.
    pub(crate) mss_option: u16,
    /// The outer headers of the burst's last packet that came by a tunnel, and the node that sent it.
    pub(crate) last_sender: Option<(SeenHeader, NodeId)>,
}

impl<'a> Context<'a> {
    /// Returns the origin of the packet.
    #[inline]
    pub(crate) fn origin(&self) -> Origin {
        self.ingress.origin
    }

    /// Returns the inputs of the next choice of a backend.
    pub(crate) fn selector(&mut self) -> BackendSelector<'a> {
        // SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
        self.stages.chance = self.stages.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.stages.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        BackendSelector {
            chance: z ^ (z >> 31),
            memory: Some((self.flows.affinities(), self.now)),
        }
    }

    /// Returns true if the burst came in by the uplink.
    #[inline]
    pub(crate) fn is_from_uplink(&self) -> bool {
        self.endpoint.id == EndpointId::UPLINK
    }

    /// Returns true if the burst came in from a pod.
    #[inline]
    pub(crate) fn is_from_pod(&self) -> bool {
        self.endpoint.id.is_pod()
    }

    /// Returns the current generations of a flow's endpoints; `None` if one of the endpoints is gone.
    #[inline]
    pub(crate) fn generations(&self, endpoints: [EndpointId; 2]) -> Option<[Generation; 2]> {
        let [a, b] = endpoints;
        Some([
            self.snapshot.egress_port(a)?.generation,
            self.snapshot.egress_port(b)?.generation,
        ])
    }

    /// Returns the headers that packets of a family need to leave by an egress.
    ///
    /// # Errors
    /// The endpoint's port is closed, or the node or the next hop is gone.
    #[inline]
    pub(crate) fn link(&self, egress: Egress, is_v4: bool) -> Result<Link<'a>, DropReason> {
        match egress {
            Egress::Endpoint(to) => match self.snapshot.egress_port(to) {
                Some(port) => Ok(Link::plain(port.mac, MacAddr::GATEWAY)),
                None => Err(DropReason::PortClosed),
            },
            Egress::Node(node) => match self.snapshot.node_path_for(node, is_v4) {
                Some(path) => Ok(Link {
                    outer: path.outer.as_ref(),
                    ..Link::plain(path.next_hop.dst, path.next_hop.src)
                }),
                None => Err(DropReason::NodeUnreachable),
            },
            Egress::Uplink(id) => match self.snapshot.next_hop(id) {
                Some(hop) => Ok(Link::plain(hop.dst, hop.src)),
                None => Err(DropReason::NoRoute),
            },
        }
    }

    /// Returns the egress of the replies to the packet: to the neighbor that it came from, if the kernel knows it as one of the
    /// uplink's. `back` is the decision's egress. A packet that a node forwarded shows no way to its client.
    pub(crate) fn way_back(&self, back: Egress) -> Egress {
        if back != Egress::Uplink(NextHopId::KERNEL) || self.origin().as_node().is_some() {
            return back;
        }
        let neighbor = self.neighbor.and_then(|mac| self.snapshot.neighbor(mac));
        neighbor.map_or(back, Egress::Uplink)
    }

    /// Replaces a packet by the first octets of the scratch buffer, and frees the packet's other frames. Returns false if they do not
    /// fit a frame.
    pub(crate) fn copy_scratch(&mut self, packet: &mut Packet, len: usize) -> bool {
        if len > self.store.room() as usize {
            return false;
        }
        let Some(built) = self.stages.scratch.get(..len) else {
            return false;
        };
        if packet.frames() > 1 {
            for frame in packet.split_following(self.store) {
                self.pool.free(frame);
            }
        }
        packet.set_head_range(self.store, self.ingress.capabilities.headroom, len as u32);
        packet.bytes_mut(self.store).copy_from_slice(built);
        true
    }

    /// Returns true if an entry was evaluated against the current tables and since the start of the agent.
    #[inline]
    pub(crate) fn is_current(&self, view: &FlowView) -> bool {
        self.generations(view.endpoints)
            .is_some_and(|now| view.is_current(self.flows.epoch(), now))
    }
}
