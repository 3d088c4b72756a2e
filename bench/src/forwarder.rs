//! The forwarders between the pods: a bare AF_XDP loop, or the whole pipeline, on a thread of its own.
//!
//! Both use the same devices and the same ports of `heddle-io`. The thread runs in the dataplane's namespace, pinned to a core,
//! and ends with its guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use heddle_engine::{PortRole, PortTotals, Worker, WorkerConfig, WorkerCounters, WorkerHandle, mesh};
use heddle_flow::{Config, FlowTable, Millis};
use heddle_io::{OpenPort, XdpConfig, XdpContext, XdpMode, XdpPort};
use heddle_port::{PacketVec, Port, PortId, PortStats, WorkerPool};
use heddle_tables::WorkerId;
use heddle_tables::publish::channel;
use heddle_wire::{MacAddr, rewrite};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::BenchError;
use crate::node::{self, Pod};
use crate::veth::{self, Scene};

/// The kind of a forwarder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwarderKind {
    /// The smallest loop over the rings: every frame from one port leaves by the other, with new MAC addresses.
    Bare,
    /// heddle's worker, which always polls.
    Polling,
    /// heddle's worker, which sleeps after the default idle time.
    Sleeping,
}

/// The counters of a forwarder at its end.
#[derive(Clone, Debug, Default)]
pub struct ForwarderStats {
    /// The counters of the client's port and of the server's port.
    pub ports: Vec<PortStats>,
    /// Packets that the pipeline dropped, by reason; none for the bare forwarder.
    pub drops: Vec<(String, u64)>,
    /// The average number of packets in a burst; 0 for the bare forwarder.
    pub vector: f64,
}

/// A running forwarder. Dropping it ends it.
pub struct Forwarder {
    stop: Stop,
    thread: Option<JoinHandle<Result<ForwarderStats, BenchError>>>,
}

/// The means to end a forwarder.
enum Stop {
    Bare(Arc<AtomicBool>),
    Worker(WorkerHandle<XdpPort>),
}

impl Stop {
    fn stop(&self) {
        match self {
            Self::Bare(flag) => flag.store(true, Ordering::Relaxed),
            Self::Worker(handle) => handle.stop(),
        }
    }
}

impl Forwarder {
    /// Starts a forwarder between the scene's pods, on `core`, and returns when it forwards packets.
    ///
    /// # Errors
    /// An AF_XDP operation failed, or the core does not exist.
    pub fn start(scene: &Scene, kind: ForwarderKind, core: usize) -> Result<Self, BenchError> {
        let (ready, started) = mpsc::channel();
        let names = scene.pods.each_ref().map(|pod| pod.host_end.clone());
        let (pods, mtu, mode) = (scene.tables(), scene.mtu, scene.mode);
        let thread = scene.dataplane.spawn(move || {
            Ok(pin_to_core(core).and_then(|()| match kind {
                ForwarderKind::Bare => bare(&names, &pods, mode, &ready),
                ForwarderKind::Polling => pipeline(&names, &pods, (mtu, mode), Duration::MAX, &ready),
                ForwarderKind::Sleeping => {
                    let idle = WorkerConfig::new(WorkerId(0), 0).idle_after;
                    pipeline(&names, &pods, (mtu, mode), idle, &ready)
                }
            }))
        })?;
        let thread = std::thread::spawn(move || match thread.join() {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(BenchError::Thread("dataplane")),
        });
        match started.recv() {
            Ok(stop) => Ok(Self {
                stop,
                thread: Some(thread),
            }),
            // The thread ended before it was ready.
            Err(_) => Err(match thread.join() {
                Ok(Err(error)) => error,
                Ok(Ok(_)) | Err(_) => BenchError::Thread("dataplane"),
            }),
        }
    }

    /// Ends the forwarder and returns its counters.
    ///
    /// # Errors
    /// The thread failed or panicked.
    pub fn finish(mut self) -> Result<ForwarderStats, BenchError> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(seen)) => seen,
            Some(Err(_)) | None => Err(BenchError::Thread("dataplane")),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Pins the calling thread to a core.
///
/// # Errors
/// There is no such core.
pub fn pin_to_core(core: usize) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    let pinned = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    pinned.map_err(|_| BenchError::BadValue {
        what: "core",
        value: core as u64,
        rule: "one that this process may use (/proc/self/status: Cpus_allowed_list)",
    })
}

fn open(context: &mut XdpContext, name: &str, port: PortId, mode: XdpMode) -> Result<XdpPort, BenchError> {
    let ifindex = veth::index(name)?;
    Ok(context.open(OpenPort {
        ifname: name.to_owned(),
        ifindex,
        queue: 0,
        port,
        mode,
    })?)
}

fn bare(
    names: &[String; 2],
    pods: &[Pod; 2],
    mode: XdpMode,
    ready: &mpsc::Sender<Stop>,
) -> Result<ForwarderStats, BenchError> {
    let mut context = XdpContext::new(XdpConfig::default())?;
    let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
    let [a, b] = names;
    let mut ports = [
        open(&mut context, a, pods[0].port, mode)?,
        open(&mut context, b, pods[1].port, mode)?,
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let _ = ready.send(Stop::Bare(Arc::clone(&stop)));
    let mut packets = PacketVec::new();
    while !stop.load(Ordering::Relaxed) {
        let [a, b] = &mut ports;
        forward_burst(a, b, pods[1].mac, &mut packets, &mut pool);
        forward_burst(b, a, pods[0].mac, &mut packets, &mut pool);
    }
    let seen = ForwarderStats {
        ports: ports.iter().map(Port::stats).collect(),
        ..ForwarderStats::default()
    };
    for port in ports {
        context.close(port);
    }
    Ok(seen)
}

/// Forwards one burst from one port to the other.
fn forward_burst(from: &mut XdpPort, to: &mut XdpPort, mac: MacAddr, packets: &mut PacketVec, pool: &mut WorkerPool) {
    if from.rx(pool, packets) == 0 {
        return;
    }
    let store = Arc::clone(pool.store_arc());
    for packet in packets.iter_mut() {
        rewrite::set_macs(packet.bytes_mut(&store), mac, MacAddr::GATEWAY);
    }
    to.tx(pool, packets);
    to.flush(pool);
    to.tx(pool, packets);
    for packet in packets.drain(..) {
        pool.free_packet(packet);
    }
}

fn pipeline(
    names: &[String; 2],
    pods: &[Pod; 2],
    (mtu, mode): (u32, XdpMode),
    idle_after: Duration,
    ready: &mpsc::Sender<Stop>,
) -> Result<ForwarderStats, BenchError> {
    let mut context = XdpContext::new(XdpConfig::default())?;
    let snapshot = node::tables(pods, 1, u16::try_from(mtu).unwrap_or(u16::MAX), None);
    let (_publisher, readers) = channel(snapshot, 1);
    let flows = Arc::new(FlowTable::anonymous(&Config::default()));
    let missing = |what: &str| BenchError::Unexpected {
        what: what.to_owned(),
        expected: "there is one".to_owned(),
        got: "none".to_owned(),
    };
    let ends = mesh(1, 64, 16)
        .ok()
        .and_then(|ends| ends.into_iter().next())
        .ok_or_else(|| missing("a mesh of one"))?;
    let reader = readers.into_iter().next().ok_or_else(|| missing("a reader"))?;
    let pool = WorkerPool::new(WorkerId(0), context.pool().clone());
    let config = WorkerConfig {
        idle_after,
        ..WorkerConfig::new(WorkerId(0), 16)
    };
    let (mut worker, handle) = Worker::new(config, pool, reader, flows, ends);
    let start = Instant::now();
    let clock = move || Millis(1_000_000 + start.elapsed().as_millis() as u64);
    for (name, pod) in names.iter().zip(pods) {
        let port = open(&mut context, name, pod.port, mode)?;
        let added = handle
            .add_port(port, PortRole::Pod(pod.endpoint))
            .map_err(|_| missing("a worker"))?;
        worker.turn(clock());
        added
            .recv()
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| missing("room for a port"))?;
    }
    let counters = Arc::clone(handle.counters());
    let _ = ready.send(Stop::Worker(handle));
    worker.run(clock);
    let ports = worker.finish();
    let mut seen = seen(&counters, pods);
    for (port, _) in ports {
        seen.ports.push(port.stats());
        context.close(port);
    }
    Ok(seen)
}

fn seen(counters: &WorkerCounters, pods: &[Pod]) -> ForwarderStats {
    let mut sum = PortTotals::default();
    for pod in pods {
        sum += &counters.port_totals(pod.port);
    }
    let bursts = counters.totals().bursts.max(1);
    ForwarderStats {
        ports: Vec::new(),
        drops: sum
            .drops()
            .map(|(reason, count)| (reason.as_str().to_owned(), count))
            .collect(),
        vector: sum.rx_packets as f64 / bursts as f64,
    }
}
