//! Packets per second on veths: the generator in the client's namespace, a forwarder, and a server that drops what arrives.

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

/// Source ports begin here.
const FIRST_PORT: u16 = 1024;
/// How long packets pass before they count: connections are opened and rings grown.
const WARM_UP: Duration = Duration::from_millis(200);

/// What the generator sends.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Packets {
    /// Octets of a frame, without FCS.
    pub frame: usize,
    /// Connections, each with a source port of its own.
    pub flows: u16,
    /// How long.
    pub time: Duration,
}

/// Where things run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cores {
    /// The forwarder.
    pub forwarder: usize,
    /// The generator.
    pub generator: usize,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Frames per second that the generator offered.
    pub offered: f64,
    /// Frames per second that the server's device received.
    pub received: f64,
    /// Packets in a burst on average; 0 for the bare forwarder.
    pub vector: f64,
    /// Packets that the pipeline dropped, by reason.
    pub drops: Vec<(String, u64)>,
}

/// Lets the server drop whatever comes, before its stack looks at it: what a pod does with packets is not measured.
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

/// While this stands, the server hears nothing.
#[derive(Debug)]
pub struct ArrivalsDropped<'a>(&'a Scene);

impl Drop for ArrivalsDropped<'_> {
    fn drop(&mut self) {
        // It goes with the namespace otherwise.
        let _ = self
            .0
            .server()
            .ns
            .run("nft", &["delete", "table", "netdev", "heddle_bench"]);
    }
}

/// One run of one forwarder.
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
        // The inner result is the generator's, the outer one the namespace's.
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
