//! Packets per second on veths: the generator in the client's namespace, a forwarder, and a server that drops every packet.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use heddle_io::pktgen::{self, Sent, Traffic};
use heddle_lab::LabError;
use heddle_wire::MacAddr;
use serde::Serialize;

use crate::BenchError;
use crate::forwarder::{Forwarder, ForwarderKind, pin_to_core};
use crate::frames::{self, Checksum, Ends};
use crate::node;
use crate::veth::Scene;

/// The first source port.
const FIRST_PORT: u16 = 1024;
/// The time before the measurement, in which connections open and rings grow.
const WARM_UP: Duration = Duration::from_millis(200);

/// The packets that the generator sends.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Packets {
    /// The octets of a frame, without FCS.
    pub frame: usize,
    /// The number of connections, each with its own source port.
    pub flows: u16,
    /// The duration.
    pub time: Duration,
}

/// The cores of the threads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cores {
    /// The forwarder's core.
    pub forwarder: usize,
    /// The generator's core.
    pub generator: usize,
}

/// The results of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Frames per second that the generator offered.
    pub offered: f64,
    /// Frames per second that the server's device received.
    pub received: f64,
    /// The average number of packets in a burst; 0 for the bare forwarder.
    pub vector: f64,
    /// Packets that the pipeline dropped, by reason.
    pub drops: Vec<(String, u64)>,
}

/// Adds an ingress hook that drops every packet to the server, because the cost of its network stack is not part of the measurement.
///
/// # Errors
/// nft(8) refuses.
pub fn drop_arrivals(scene: &Scene) -> Result<ArrivalsDropped<'_>, BenchError> {
    let chain = "{ type filter hook ingress device eth0 priority 0; policy drop; }";
    let ns = &scene.server().ns;
    ns.run("nft", &["add", "table", "netdev", "heddle_bench"])?;
    ns.run("nft", &["add", "chain", "netdev", "heddle_bench", "drop_all", chain])?;
    Ok(ArrivalsDropped(scene))
}

/// The guard of the hook: dropping it removes the hook.
#[derive(Debug)]
pub struct ArrivalsDropped<'a>(&'a Scene);

impl Drop for ArrivalsDropped<'_> {
    fn drop(&mut self) {
        // A failure does no harm: the hook ends with the namespace.
        let _ = self
            .0
            .server()
            .ns
            .run("nft", &["delete", "table", "netdev", "heddle_bench"]);
    }
}

/// Measures one forwarder once.
///
/// # Errors
/// AF_XDP or the generator cannot run.
pub fn run(scene: &Scene, kind: ForwarderKind, packets: Packets, cores: Cores) -> Result<Run, BenchError> {
    let client = scene.client();
    let ends = Ends {
        macs: (client.pod.mac, MacAddr::GATEWAY),
        ips: (client.pod.ip, node::service_ip(0)),
        ports: (FIRST_PORT, node::SERVICE_PORT),
    };
    let frame = frames::udp(&ends, packets.frame, Checksum::Finished);
    let ifindex = client.ifindex()?;
    let forwarder = Forwarder::start(scene, kind, cores.forwarder)?;
    let generate = |time: Duration| -> Result<Sent, BenchError> {
        let traffic = Traffic {
            ifindex,
            frame: &frame,
            first_port: FIRST_PORT,
            ports: packets.flows,
            count: u64::MAX,
            time,
        };
        // The outer result is of the namespace, the inner one of the generator.
        client.ns.enter(|| {
            Ok::<_, LabError>(
                pin_to_core(cores.generator).and_then(|()| Ok(pktgen::send(&traffic, &AtomicBool::new(false))?)),
            )
        })?
    };
    generate(WARM_UP)?;
    let (before, began) = (scene.server().received()?, Instant::now());
    let sent = generate(packets.time)?;
    let took = began.elapsed();
    let received = scene.server().received()? - before;
    let seen = forwarder.finish()?;
    let frames = seen.ports.first().map_or(0, |port| port.rx_packets);
    if received == 0 {
        return Err(BenchError::Unexpected {
            what: format!("frames through {kind:?}"),
            expected: "some arrive".to_owned(),
            got: format!(
                "none of {}; the forwarder received {frames}; drops: {:?}",
                sent.frames, seen.drops
            ),
        });
    }
    Ok(Run {
        offered: sent.frames as f64 / sent.time.as_secs_f64(),
        received: received as f64 / took.as_secs_f64(),
        vector: seen.vector,
        drops: seen.drops,
    })
}
