//! A real agent on a node of the laboratory, with the cluster of the server and real pods.
//!
//! The server runs outside of the node, as a process of its own. Of the node's pods of the cluster, the first Deployment is
//! attached: a steady stream of datagrams runs between two of its pods, and a third one opens connections to a Service whose
//! endpoint moves between the other two. A move is over when the first datagram arrives at the new endpoint, so its time
//! contains the request to the server, source, model, compiler, publication and the worker.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use heddle_lab::udp::{self, Pace, UdpServer};
use heddle_lab::usage::{self, ThreadUse};
use heddle_lab::{Binaries, Lab, LabError, Node, NodePlan, Pod, Process};
use serde_json::Value;

use super::memory::Memory;
use super::plan::{PROBE_PORT, Plan};
use super::process::{ServerProcess, get};
use super::stages::process_time;
use crate::BenchError;
use crate::stats::percentile;

/// The longest that an agent may take for its start.
const START_BOUND: Duration = Duration::from_secs(180);
/// The datagrams of the stream, each millisecond.
const STREAM: u32 = 5;
/// The time between two new connections while a move is awaited.
const BETWEEN_CONNECTIONS: Duration = Duration::from_micros(250);
/// The longest that a move may take.
const MOVE_BOUND: Duration = Duration::from_secs(2);
/// The time between two moves: not a multiple of the source's 100 ms.
const BETWEEN_MOVES: Duration = Duration::from_millis(173);

type Threads = BTreeMap<String, ThreadUse>;

/// Measures an agent's start, then its work without and with changes, and writes the report.
///
/// # Errors
/// A part of the laboratory or the agent fails.
pub fn measure(plan: &Plan, rate: u64, seconds: u64, out: &mut impl Write) -> Result<(), BenchError> {
    let lab = Lab::new(Binaries::beside_current_exe()?)?;
    let node = lab.node(NodePlan {
        pod_cidrs: plan.pod_ranges(0),
        ..NodePlan::new(&plan.node, 1)
    })?;
    let server = ServerProcess::start(plan, ([192, 0, 2, 254], 8001).into(), Some(lab.outside()))?;
    let kubeconfig = server.write_kubeconfig(lab.dir())?;
    // The start: until the agent says that the workers have the tables.
    let begin = Instant::now();
    let agent = start(&node, &kubeconfig)?;
    let took = begin.elapsed();
    let threads = usage::threads(agent.id())?;
    let _ = writeln!(
        out,
        "cold start: {:.2} s until the workers have the tables; the agent's processor time {:.2} s ({}); the server's {:.2} s",
        took.as_secs_f64(),
        total(&threads).as_secs_f64(),
        by_name(&threads, 0.01, |time| format!("{:.2} s", time.as_secs_f64())),
        process_time(server.id())?.as_secs_f64(),
    );
    write_memory(&agent, &node, "after the start", out)?;
    let pods = Pods::attach(&lab, &node, plan)?;
    write_memory(&agent, &node, "with the attached pods", out)?;
    for rate in [0, rate] {
        ask(&lab, || server.set_rate(rate))?;
        thread::sleep(Duration::from_secs(1));
        let phase = Phase {
            lab: &lab,
            node: &node,
            agent: &agent,
            server: &server,
            pods: &pods,
            service: plan.service_addresses(plan.services).first().copied(),
        };
        phase.run(Duration::from_secs(seconds), out)?;
    }
    ask(&lab, || server.set_rate(0))?;
    write_memory(&agent, &node, "after the changes", out)?;
    let status = node.status()?;
    let _ = writeln!(out, "tables: {}", status["tables"]);
    Ok(())
}

/// Asks the server, which listens outside of the node.
fn ask<T: Send>(lab: &Lab, question: impl FnOnce() -> Result<T, BenchError> + Send) -> Result<T, BenchError> {
    let asked = lab.outside().enter(|| {
        question().map_err(|e| LabError::Reply {
            what: "the server of the cluster".to_owned(),
            detail: e.to_string(),
        })
    });
    Ok(asked?)
}

/// Starts the agent and waits until it is ready.
fn start(node: &Node, kubeconfig: &std::path::Path) -> Result<Process, BenchError> {
    let notify = node.state_dir().join("notify.sock");
    let socket = UnixDatagram::bind(&notify).map_err(BenchError::io("binding the notify socket"))?;
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .map_err(BenchError::io("a read timeout"))?;
    let mut command = node.heddle("run");
    command
        .args(["--node", node.name(), "--cores", "0", "--kubeconfig"])
        .arg(kubeconfig)
        .arg("--state-dir")
        .arg(node.state_dir())
        .env("NOTIFY_SOCKET", &notify);
    let mut agent = Process::start(node.ns(), "heddle run", &mut command, &node.log())?;
    let begin = Instant::now();
    let mut message = [0; 256];
    loop {
        if let Ok(n) = socket.recv(&mut message)
            && String::from_utf8_lossy(&message[..n]).contains("READY=1")
        {
            return Ok(agent);
        }
        let ended = agent.exit_status()?;
        if ended.is_some() || begin.elapsed() > START_BOUND {
            return Err(BenchError::Unexpected {
                what: "the start of heddle run".to_owned(),
                expected: "READY=1".to_owned(),
                got: format!("{ended:?}, log: {}", agent.log_tail(20)),
            });
        }
    }
}

/// Pods of one Deployment: two ends of a stream, a client, and two endpoints of a Service.
struct Pods {
    all: Vec<(Pod, IpAddr)>,
}

impl Pods {
    fn attach(lab: &Lab, node: &Node, plan: &Plan) -> Result<Self, BenchError> {
        let mut all = Vec::new();
        for number in 0..plan.attached.min(plan.local) {
            let index = plan.local_pod(number);
            let namespace = plan.namespace_of(Plan::deployment_of(index));
            let pod = lab.pod(&namespace, &plan.pod_name(index, 0), &[])?;
            let ip = node.attach(&pod)?.ip(false)?;
            all.push((pod, ip));
        }
        Ok(Self { all })
    }

    fn get(&self, at: usize) -> Result<&(Pod, IpAddr), BenchError> {
        self.all.get(at).ok_or(BenchError::Thread("pod"))
    }
}

/// The parts that a phase of the measurement needs.
struct Phase<'a> {
    lab: &'a Lab,
    node: &'a Node,
    agent: &'a Process,
    server: &'a ServerProcess,
    pods: &'a Pods,
    service: Option<IpAddr>,
}

impl Phase<'_> {
    /// Runs the stream and the moves for a time, and writes what the agent used and what was lost.
    fn run(&self, time: Duration, out: &mut impl Write) -> Result<(), BenchError> {
        let (from, to) = (self.pods.get(0)?, self.pods.get(1)?);
        let sink = UdpServer::sink(to.0.ns(), PROBE_PORT)?;
        let to = SocketAddr::new(to.1, PROBE_PORT);
        let mut moves = Moves::start(self)?;
        let drops_before = drops(&self.node.status()?);
        let (threads_before, sent_before) = (usage::threads(self.agent.id())?, ask(self.lab, || self.server.sent())?);
        let begin = Instant::now();
        let (stream, times) = thread::scope(|scope| {
            let stream = scope.spawn(|| udp::send(from.0.ns(), to, 200, Pace::PerMillisecond(STREAM), time));
            let times = moves.repeat(self, begin + time);
            (stream.join(), times)
        });
        let (stream, times) = (stream.map_err(|_| BenchError::Thread("stream"))??, times?);
        let took = begin.elapsed().as_secs_f64();
        let threads = usage::between(&threads_before, &usage::threads(self.agent.id())?);
        let sent = ask(self.lab, || self.server.sent())?;
        thread::sleep(Duration::from_millis(300));
        let lost = stream.saturating_sub(sink.received());
        let share = |time: Duration| format!("{:.2} %", 100.0 * time.as_secs_f64() / took);
        let millis = |at| percentile(&times, at).as_secs_f64() * 1e3;
        let _ = writeln!(
            out,
            "{:.0} changes/s, {:.2} MB/s for {took:.0} s: of a core, control and source {}, all threads {} ({})",
            (sent.0 - sent_before.0) as f64 / took,
            (sent.1 - sent_before.1) as f64 / took / 1e6,
            share(total(&control(&threads))),
            share(total(&threads)),
            by_name(&threads, 0.0005 * took, share),
        );
        let _ = writeln!(
            out,
            "  {} moves of an endpoint, ms from the request to the first datagram: p50 {:.2}, p90 {:.2}, p99 {:.2}, most {:.2}",
            times.len(),
            millis(0.5),
            millis(0.9),
            millis(0.99),
            millis(1.0)
        );
        let dropped = drops(&self.node.status()?) - drops_before;
        let _ = writeln!(
            out,
            "  stream of {STREAM} datagrams a millisecond: {stream} sent, {lost} lost; drops of all ports {dropped}"
        );
        Ok(())
    }
}

/// A client of the Service, and two servers that note when a datagram arrives.
struct Moves {
    arrivals: Receiver<(usize, u32)>,
    endpoints: [IpAddr; 2],
    now: usize,
}

impl Moves {
    fn start(phase: &Phase<'_>) -> Result<Self, BenchError> {
        let (sender, arrivals) = mpsc::channel();
        let mut endpoints = Vec::new();
        for which in 0..2 {
            let (pod, ip) = phase.pods.get(3 + which)?;
            endpoints.push(*ip);
            let sender = sender.clone();
            let socket = pod.ns().enter(|| {
                let socket = heddle_lab::bind_when_free("binding the endpoint's port", || {
                    UdpSocket::bind(("0.0.0.0", PROBE_PORT))
                })?;
                socket
                    .set_read_timeout(Some(Duration::from_millis(50)))
                    .map_err(LabError::io("a read timeout"))?;
                Ok(socket)
            })?;
            // It ends when nobody reads the arrivals.
            thread::spawn(move || {
                let mut buffer = [0; 4];
                loop {
                    let arrival = match socket.recv(&mut buffer) {
                        Ok(4) => (which, u32::from_be_bytes(buffer)),
                        _ => (usize::MAX, 0),
                    };
                    if sender.send(arrival).is_err() {
                        return;
                    }
                }
            });
        }
        let [Some(first), Some(second)] = [endpoints.first().copied(), endpoints.get(1).copied()] else {
            return Err(BenchError::Thread("pod"));
        };
        Ok(Self {
            arrivals,
            endpoints: [first, second],
            now: 0,
        })
    }

    /// Moves the endpoint to and fro, and returns the times, sorted.
    fn repeat(&mut self, phase: &Phase<'_>, end: Instant) -> Result<Vec<Duration>, BenchError> {
        let service = SocketAddr::new(phase.service.unwrap_or(IpAddr::from([0; 4])), PROBE_PORT);
        let (client, _) = phase.pods.get(2)?;
        let mut times = Vec::new();
        let mut round = 0;
        while Instant::now() < end {
            round += 1;
            let time = self.once(phase, client, service, round)?;
            // The first move is the one from nowhere.
            if round > 1 {
                times.push(time);
            }
            thread::sleep(BETWEEN_MOVES);
        }
        times.sort_unstable();
        Ok(times)
    }

    fn once(&mut self, phase: &Phase<'_>, client: &Pod, to: SocketAddr, round: u32) -> Result<Duration, BenchError> {
        self.now = 1 - self.now;
        while self.arrivals.try_recv().is_ok() {}
        let path = format!("/bench/probe?endpoints={}", self.endpoints[self.now]);
        let begin = Instant::now();
        ask(phase.lab, || get(phase.server.address(), &path))?;
        let arrivals = &self.arrivals;
        let now = self.now;
        let arrived = AtomicBool::new(false);
        let took = thread::scope(|scope| {
            scope.spawn(|| {
                let connect = || {
                    let socket = UdpSocket::bind("0.0.0.0:0").map_err(LabError::io("a UDP socket"))?;
                    // A rejected connection is one before the first endpoint.
                    let _ = socket.send_to(&round.to_be_bytes(), to);
                    Ok(socket)
                };
                let sent = client.ns().enter(|| {
                    let mut sockets = Vec::new();
                    while begin.elapsed() < MOVE_BOUND && !arrived.load(Ordering::Acquire) {
                        sockets.push(connect()?);
                        thread::sleep(BETWEEN_CONNECTIONS);
                    }
                    Ok(())
                });
                drop(sent);
            });
            while begin.elapsed() < MOVE_BOUND {
                if let Ok(arrival) = arrivals.recv_timeout(Duration::from_millis(100))
                    && arrival == (now, round)
                {
                    break;
                }
            }
            let took = begin.elapsed();
            arrived.store(true, Ordering::Release);
            took
        });
        Ok(took)
    }
}

/// Returns the threads that are no workers.
fn control(threads: &Threads) -> Threads {
    let is_control = |name: &str| !name.starts_with("worker") && !name.starts_with("heddle-worker");
    threads
        .iter()
        .filter(|(name, _)| is_control(name))
        .map(|(name, used)| (name.clone(), *used))
        .collect()
}

fn total(threads: &Threads) -> Duration {
    threads.values().map(|used| used.cpu).sum()
}

/// Returns the time of the threads of each name, the ones above a bound in seconds.
fn by_name(threads: &Threads, least: f64, show: impl Fn(Duration) -> String) -> String {
    let mut names: BTreeMap<&str, Duration> = BTreeMap::new();
    for (thread, used) in threads {
        let name = thread.split('/').next().unwrap_or(thread);
        *names.entry(name).or_default() += used.cpu;
    }
    let shown = names.iter().filter(|(_, time)| time.as_secs_f64() >= least);
    let shown: Vec<String> = shown.map(|(name, time)| format!("{name} {}", show(*time))).collect();
    shown.join(", ")
}

/// Returns the number of packets that were dropped at any port.
fn drops(status: &Value) -> u64 {
    let drops = status["drops"].as_object();
    drops.into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum()
}

fn write_memory(agent: &Process, node: &Node, when: &str, out: &mut impl Write) -> Result<(), BenchError> {
    let memory = Memory::read(agent.id(), &node.run_dir())?;
    let _ = writeln!(out, "memory {when}: {memory}");
    Ok(())
}
