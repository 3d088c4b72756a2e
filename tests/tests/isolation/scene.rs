//! The scene of the suite: a node with a hostile pod, a calm neighbor, a third pod and the target that all of them reach.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, ScopedJoinHandle};
use std::time::{Duration, Instant};

use heddle_lab::traffic::{ProbeOutcome, ServerBehavior, TcpServer, tcp_request};
use heddle_lab::udp::{Pace, UdpServer, send};
use heddle_lab::{Lab, LabError, NetNs, Node, NodePlan, Pod, bind_when_free, manifests};
use serde_json::json;

use crate::common::{BOUND, binaries, delivered, wait_until};

/// The capacity of the flow table in connections, and what one pod may open of it.
pub const CONNECTIONS: u64 = 2048;
pub const PER_POD: u64 = 512;
/// The port of the servers, of the sink that the calm pod sends to, of the sink and the silent server of the hostile pod, and one where nobody
/// listens.
pub const PORT: u16 = 80;
pub const CALM_PORT: u16 = 9;
pub const SINK_PORT: u16 = 10;
pub const SILENT_PORT: u16 = 11;
pub const CLOSED: u16 = 81;
/// A node port of the target, and the port of a health check.
pub const NODE_PORT: u16 = 30_080;
pub const HEALTH_PORT: u16 = 32_000;
/// The datagrams that the calm pod sends, and the time of one measurement.
const CALM: Pace = Pace::PerMillisecond(4);
const CALM_SIZE: usize = 200;
const TIME: Duration = Duration::from_millis(250);
/// The new connections of one measurement. A closed connection keeps its entry for a while and counts in its opener's quota.
const MOST_CONNECTIONS: u64 = 20;
/// The packets that the hostile pod sends before a measurement begins.
const WARM_UP: u64 = 50;

/// Makes a node with a small flow table and this number of workers, and starts its agent.
pub fn node(lab: &Lab, workers: u8) -> Result<Node, LabError> {
    let config = lab.dir().join("small-table.yaml");
    std::fs::write(
        &config,
        format!("connections: {CONNECTIONS}\nconnectionsPerPod: {PER_POD}\nhugePages: never\n"),
    )
    .map_err(LabError::io("writing small-table.yaml"))?;
    let mut plan = NodePlan::new("node", 1);
    plan.cores = "0,1".to_owned();
    plan.flags = [
        "--config".to_owned(),
        config.display().to_string(),
        "--workers".to_owned(),
        workers.to_string(),
    ]
    .to_vec();
    let mut node = lab.node(plan)?;
    node.start_agent()?;
    Ok(node)
}

/// Returns the connections in the flow table.
pub fn used(node: &Node) -> Result<u64, LabError> {
    Ok(node.status()?["flows"]["used"].as_u64().unwrap_or(u64::MAX) / 2)
}

/// Tries a new connection, which must be answered.
pub fn connects(from: &NetNs, to: SocketAddr, who: &str) -> Result<(), LabError> {
    let outcome = tcp_request(from, to, "", BOUND)?;
    assert_eq!(outcome, ProbeOutcome::Answered("here".to_owned()), "{who} to {to}");
    Ok(())
}

/// The node with its pods and servers.
pub struct Scene {
    pub node: Node,
    pub hostile: Pod,
    pub target: IpAddr,
    calm: Pod,
    calm_sink: UdpServer,
    _servers: (TcpServer, UdpServer, UdpServer, SilentServer),
    /// The last field: its folder has the node's state.
    lab: Lab,
}

/// A TCP server that accepts and keeps every connection, and neither reads nor sends. Dropping it ends it.
pub struct SilentServer {
    ns: NetNs,
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl SilentServer {
    pub fn start(ns: &NetNs, port: u16) -> Result<Self, LabError> {
        let any = SocketAddr::from(([0, 0, 0, 0], port));
        let listener = ns.enter(|| bind_when_free("a silent server", || TcpListener::bind(any)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = ns.spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut kept = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    kept.push(stream);
                }
                Ok(())
            }
        })?;
        Ok(Self {
            ns: ns.clone(),
            port,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for SilentServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread. If the namespace is gone, nothing is left to wait for.
        let own = SocketAddr::from(([127, 0, 0, 1], self.port));
        let woken = self
            .ns
            .enter(|| TcpStream::connect_timeout(&own, BOUND).map_err(LabError::io("the end")));
        if woken.is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// The signals between an attack and the measurement.
#[derive(Default)]
pub struct Pulse {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Pulse {
    /// Calls `send` this many times each millisecond, until the measurement ends. `send` returns `true` if something was sent.
    pub fn pace(&self, per_millisecond: u32, mut send: impl FnMut() -> Result<bool, LabError>) -> Result<(), LabError> {
        let start = Instant::now();
        let mut rounds = 0;
        while !self.stop.load(Ordering::Acquire) {
            for _ in 0..per_millisecond {
                self.sent.fetch_add(u64::from(send()?), Ordering::AcqRel);
            }
            rounds += 1;
            std::thread::sleep((Duration::from_millis(1) * rounds).saturating_sub(start.elapsed()));
        }
        Ok(())
    }
}

/// The result of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// The part of the calm pod's datagrams that arrived.
    pub arrived: f64,
    /// The packets or connections of the hostile pod.
    pub sent: u64,
    /// The new connections that were tried meanwhile, and all answered.
    pub connections: u64,
}

impl Scene {
    /// Makes a scene with this number of workers.
    pub fn start(workers: u8) -> Result<Self, LabError> {
        let lab = Lab::new(binaries()?)?;
        let node = node(&lab, workers)?;
        let pod = |name: &str| lab.pod(name, name, &[]);
        // A new port goes to the worker with the fewest, so this order gives the hostile pod and the target different ones.
        let (hostile, target, calm) = (pod("hostile")?, pod("target")?, pod("calm")?);
        node.start_pod(&hostile)?;
        let at = node.start_pod(&target)?.ip(false)?;
        node.start_pod(&calm)?;
        let mut service = manifests::service("target", "front", &[[10, 96, 0, 81].into()], PORT, PORT);
        service["spec"]["type"] = json!("LoadBalancer");
        service["spec"]["ports"] =
            json!([{"name": "main", "protocol": "UDP", "port": PORT, "targetPort": PORT, "nodePort": NODE_PORT}]);
        node.apply(&service)?;
        let mut checked = manifests::service("target", "checked", &[[10, 96, 0, 82].into()], PORT, PORT);
        checked["spec"]["type"] = json!("LoadBalancer");
        checked["spec"]["externalTrafficPolicy"] = json!("Local");
        checked["spec"]["healthCheckNodePort"] = json!(HEALTH_PORT);
        node.apply(&checked)?;
        for name in ["front", "checked"] {
            let mut slice = manifests::endpoint_slice("target", name, false, PORT, &[(at, "target")]);
            slice["endpoints"][0]["nodeName"] = json!(node.name());
            if name == "front" {
                slice["ports"][0]["protocol"] = json!("UDP");
            }
            node.apply(&slice)?;
        }
        let greet = ServerBehavior::Greet("here".to_owned());
        let ns = target.ns();
        let servers = (
            TcpServer::start(ns, PORT, greet)?,
            UdpServer::sink(ns, PORT)?,
            UdpServer::sink(ns, SINK_PORT)?,
            SilentServer::start(ns, SILENT_PORT)?,
        );
        let calm_sink = UdpServer::sink(ns, CALM_PORT)?;
        let scene = Self {
            lab,
            node,
            hostile,
            target: at,
            calm,
            calm_sink,
            _servers: servers,
        };
        let health = SocketAddr::new(scene.node.internal_ips()[0], HEALTH_PORT);
        wait_until("the health check is served", || {
            scene.node.ns().enter(|| Ok(TcpStream::connect(health).is_ok()))
        })?;
        Ok(scene)
    }

    /// Makes a pod, whose quota nobody has used.
    pub fn new_pod(&self, name: &str) -> Result<Pod, LabError> {
        let pod = self.lab.pod("third", name, &[])?;
        self.node.start_pod(&pod)?;
        Ok(pod)
    }

    /// Measures what arrives of the calm pod's datagrams while `attack` runs as a user without privileges in the hostile pod,
    /// and while the node and a third pod make new connections to the target, which must all be answered.
    pub fn measure(
        &self,
        what: &str,
        third: &Pod,
        attack: impl FnOnce(&Pulse) -> Result<(), LabError> + Send,
    ) -> Result<Measured, LabError> {
        let (pulse, done) = (Pulse::default(), AtomicBool::new(false));
        let to = SocketAddr::new(self.target, PORT);
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| self.hostile.ns().enter_as_nobody(|| attack(&pulse)));
            let probes = scope.spawn(|| -> Result<u64, LabError> {
                let mut count = 0;
                while !done.load(Ordering::Acquire) && count < MOST_CONNECTIONS {
                    connects(self.node.ns(), to, &format!("{what}: probe {count} of the node"))?;
                    connects(
                        third.ns(),
                        to,
                        &format!("{what}: new connection {count} of a third pod"),
                    )?;
                    count += 2;
                }
                Ok(count)
            });
            let calm = SocketAddr::new(self.target, CALM_PORT);
            let measured = wait_until("the hostile pod sends", || {
                Ok(pulse.sent.load(Ordering::Acquire) >= WARM_UP || attacker.is_finished())
            })
            .and_then(|()| delivered(|| send(self.calm.ns(), calm, CALM_SIZE, CALM, TIME), &self.calm_sink));
            pulse.stop.store(true, Ordering::Release);
            done.store(true, Ordering::Release);
            let connections = joined(probes)?;
            joined(attacker)?;
            let (sent, received) = measured?;
            Ok(Measured {
                arrived: received as f64 / sent as f64,
                sent: pulse.sent.load(Ordering::Acquire),
                connections,
            })
        })
    }
}

/// Waits for a thread and returns its result, or panics as it did.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, LabError>>) -> Result<T, LabError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
