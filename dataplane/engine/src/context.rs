//! What the stages of one burst share.

use heddle_flow::{FlowTable, FlowView, Millis, Origin};
use heddle_port::{FrameStore, Packet, PortId, WorkerPool};
use heddle_tables::{Endpoint, EndpointId, Generation, Snapshot};

use crate::batch::Batch;
use crate::control::PortRole;
use crate::decide::BackendSelector;
use crate::reason::DropReason;
use crate::reassembly::{Datagrams, FragmentConfig, FragmentTotals};

/// What the stages are told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageConfig {
    /// Until then, TCP connections are picked up in their middle: after a start without a flow table. `Millis(0)`: never.
    pub adopt_until: Millis,
    /// ICMP errors that a worker sends in one turn at most.
    pub errors_per_turn: u32,
    /// Where chance begins, for Services that choose by it: another number for each worker, the same one for a replay.
    pub seed: u64,
    /// What the fragments of datagrams may use.
    pub fragments: FragmentConfig,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            adopt_until: Millis(0),
            errors_per_turn: 64,
            seed: 0,
            fragments: FragmentConfig::default(),
        }
    }
}

/// The longest answer that is not made in place: an ICMPv6 error (RFC 4443 section 2.4(c)) with its Ethernet header.
const SCRATCH: usize = 1280 + 14;

/// What a worker's stages keep from burst to burst.
#[derive(Debug)]
pub struct Stages {
    pub(crate) config: StageConfig,
    /// ICMP errors that may still be sent in this turn.
    pub(crate) errors_left: u32,
    /// Packets that no current flow answered for.
    pub(crate) slow: u64,
    /// The state of the generator of chance.
    pub(crate) chance: u64,
    /// Where answers are built.
    pub(crate) scratch: Box<[u8; SCRATCH]>,
    /// Datagrams of which a fragment has come, and the fragments that wait for their first.
    pub(crate) datagrams: Datagrams,
}

impl Stages {
    /// Stages with a full budget.
    #[must_use]
    pub fn new(config: StageConfig) -> Self {
        Self {
            config,
            errors_left: config.errors_per_turn,
            slow: 0,
            chance: config.seed,
            scratch: Box::new([0; SCRATCH]),
            datagrams: Datagrams::new(config.fragments),
        }
    }

    /// A turn begins: budgets are full again, and fragments whose time is up are given up.
    pub fn begin_turn(&mut self, now: Millis) {
        self.errors_left = self.config.errors_per_turn;
        self.datagrams.expire(now);
    }

    /// Puts held fragments whose first has come into an empty burst, to be processed as if they came in now, and says where
    /// they did. To be called after each burst until there is none.
    pub fn release(&mut self, batch: &mut Batch) -> Option<Ingress> {
        self.datagrams.take_ready(batch.packets_mut())
    }

    /// A held fragment that will not be forwarded any more, the port where it came in, and why: to be freed and counted. To
    /// be called after each burst until there is none.
    pub fn give_up(&mut self) -> Option<(Packet, PortId, DropReason)> {
        self.datagrams.take_given_up()
    }

    /// What came of fragments, if that has changed since the last time.
    #[inline]
    pub fn fragments(&mut self) -> Option<FragmentTotals> {
        self.datagrams.news()
    }

    /// A port is closed: what came in by it and is held is given up.
    pub fn close(&mut self, port: PortId) {
        self.datagrams.close(port);
    }
}

/// Where a burst came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ingress {
    /// The port.
    pub port: PortId,
    /// Whom it leads to.
    pub role: PortRole,
}

impl Ingress {
    /// The origin in the flow keys of its packets.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        match self.role {
            PortRole::Pod(id) => Origin::pod(id),
            PortRole::Host => Origin::HOST,
        }
    }
}

/// Everything a stage may look at; `pool` takes back frames that an answer does not need.
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
}

impl<'a> Context<'a> {
    #[inline]
    pub(crate) fn origin(&self) -> Origin {
        self.ingress.origin()
    }

    /// What the choice of a backend depends on now.
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

    #[inline]
    pub(crate) fn is_from_pod(&self) -> bool {
        self.endpoint.id.is_pod()
    }

    /// The generations of a flow's endpoints now; an endpoint that is gone has none.
    #[inline]
    pub(crate) fn generations(&self, endpoints: [EndpointId; 2]) -> Option<[Generation; 2]> {
        let [a, b] = endpoints;
        Some([
            self.snapshot.egress_port(a)?.generation,
            self.snapshot.egress_port(b)?.generation,
        ])
    }

    /// Whether an entry was evaluated under the tables as they are, and in this start of the agent.
    #[inline]
    pub(crate) fn is_current(&self, view: &FlowView) -> bool {
        self.generations(view.endpoints)
            .is_some_and(|now| view.is_current(self.flows.epoch(), now))
    }
}
