//! Source, model and compiler in this process, each stage timed alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heddle_compile::{Attachment, Compiler, NodeConfig};
use heddle_lab::usage;
use heddle_model::{Changes, Cluster, Event, Kind, NodeFacts, Object};
use heddle_port::PortId;
use heddle_source::kube::{ApiServer, ApiServerSource};
use heddle_source::{Sink, Source as _};
use heddle_tables::{EndpointId, WorkerId};
use heddle_wire::{Ip, MacAddr};
use nix::time::{ClockId, clock_gettime};

use super::plan::Plan;
use super::process::{ServerProcess, get};
use crate::BenchError;
use crate::stats::percentile;

/// The name of the source's thread.
const SOURCE_THREAD: &str = "heddle-kube";
/// The time between two changes of the endpoints whose way is timed.
const BETWEEN_PROBES: Duration = Duration::from_millis(53);

/// Returns the processor time of this thread.
#[must_use]
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The model and the compiler of the measured node.
struct Node {
    plan: Plan,
    cluster: Cluster,
    compiler: Compiler,
    model: Duration,
    compile: Duration,
}

impl Node {
    fn new(plan: Plan) -> Self {
        Self {
            cluster: Cluster::new().for_node(&plan.node),
            compiler: Compiler::new(NodeConfig::named(&*plan.node)),
            plan,
            model: Duration::ZERO,
            compile: Duration::ZERO,
        }
    }

    fn apply(&mut self, batch: Vec<Event>, mut each: impl FnMut(Changes)) {
        let begin = thread_time();
        for event in batch {
            each(self.cluster.apply(event));
        }
        self.model += thread_time() - begin;
    }

    /// Compiles changes; all objects and the local pods, as an agent does at its start, without them.
    fn compile(&mut self, changes: Option<&Changes>) {
        let begin = thread_time();
        let facts = NodeFacts::new(self.cluster.node(&self.plan.node).cloned(), []);
        match changes {
            Some(changes) => self.compiler.apply_changes(&self.cluster, changes, &facts),
            None => {
                self.compiler.apply_all(&self.cluster, &facts);
                self.attach();
            }
        }
        self.compiler.rebuild();
        self.compile += thread_time() - begin;
    }

    fn attach(&mut self) {
        for number in 0..self.plan.local {
            let pod = self.plan.local_pod(number);
            let namespace = self.plan.namespace_of(Plan::deployment_of(pod));
            let id = EndpointId(EndpointId::FIRST_POD.0 + number as u16);
            self.compiler.attach(Attachment {
                id,
                pod: Some(heddle_model::ObjectKey::new(namespace, self.plan.pod_name(pod, 0))),
                addresses: self.plan.pod_addresses(pod, 0).into_iter().map(Ip::from).collect(),
                mac: MacAddr([2, 0, 0, 0, 0, number as u8]),
                port: PortId(id.0),
                worker: WorkerId(0),
                mtu: 0,
                host_ports: Box::default(),
            });
        }
    }
}

/// Returns the processor time of the source's thread so far.
fn source_time() -> Result<Duration, BenchError> {
    let threads = usage::threads(std::process::id())?;
    Ok(threads
        .iter()
        .filter(|(name, _)| name.starts_with(SOURCE_THREAD))
        .map(|(_, used)| used.cpu)
        .sum())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Measures a cold start, then a stream of changes, and writes the report.
///
/// # Errors
/// The server or the source fails.
pub fn measure(plan: &Plan, rate: u64, seconds: u64, out: &mut impl Write) -> Result<(), BenchError> {
    let server = ServerProcess::start(plan, ([127, 0, 0, 1], 0).into(), None)?;
    let dir = tempfile::tempdir().map_err(BenchError::io("making a folder"))?;
    let kubeconfig = server.write_kubeconfig(dir.path())?;
    let mut node = Node::new(plan.clone());
    let empty = usage::resident(std::process::id())?;
    let (sender, batches) = mpsc::sync_channel(64);
    let begin = Instant::now();
    let source = ApiServerSource {
        server: ApiServer::of_kubeconfig(kubeconfig, None),
        node: None,
        load_saved: Box::new(|| None),
    };
    let sink: Sink = Box::new(move |batch| match sender.send(batch.events) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    let follower = Box::new(source).follow(sink).map_err(|e| BenchError::Unexpected {
        what: "following the server".to_owned(),
        expected: "a connection".to_owned(),
        got: e.to_string(),
    })?;
    let gone = |_| BenchError::Thread(SOURCE_THREAD);
    // The cold start.
    while !node.cluster.is_synced() {
        node.apply(batches.recv().map_err(gone)?, drop);
    }
    let listed = begin.elapsed();
    let before_compile = usage::resident(std::process::id())?;
    node.compile(None);
    let source = source_time()?;
    let _ = writeln!(
        out,
        "cold start: {:.2} s until all is listed; processor time: source {:.2} s, model {:.2} s, compile {:.2} s; server {:.2} s",
        listed.as_secs_f64(),
        source.as_secs_f64(),
        node.model.as_secs_f64(),
        node.compile.as_secs_f64(),
        process_time(server.id())?.as_secs_f64(),
    );
    let counts: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| format!("{kind} {}", node.cluster.count(*kind)))
        .collect();
    let _ = writeln!(
        out,
        "objects: {}; refused {}",
        counts.join(", "),
        node.cluster.rejections().count()
    );
    let _ = writeln!(
        out,
        "resident memory: {:.1} MiB before, {:.1} MiB with source and model, {:.1} MiB with the tables, {:.1} MiB at most",
        mib(empty),
        mib(before_compile),
        mib(usage::resident(std::process::id())?),
        mib(usage::peak(std::process::id())?),
    );
    // Changes, with and without the stream.
    for rate in [0, rate] {
        server.set_rate(rate)?;
        let sent_before = server.sent()?;
        (node.model, node.compile) = (Duration::ZERO, Duration::ZERO);
        let source_before = source_time()?;
        let (begin, mut batches_seen) = (Instant::now(), 0u64);
        let mut latencies = Vec::new();
        let mut builds = Vec::new();
        let mut sent_at: Option<Instant> = None;
        let mut next_probe = begin + Duration::from_millis(200);
        let mut probes = 0u8;
        while begin.elapsed() < Duration::from_secs(seconds) {
            if sent_at.is_none() && Instant::now() >= next_probe {
                probes = probes.wrapping_add(1);
                sent_at = Some(Instant::now());
                let address = format!("/bench/probe?endpoints=10.64.0.{}", 4 + probes % 2);
                get(server.address(), &address)?;
            }
            let Ok(batch) = batches.recv_timeout(Duration::from_millis(1)) else {
                continue;
            };
            batches_seen += 1;
            let is_probe = batch.iter().any(is_probe);
            let mut changes = Changes::default();
            let build = Instant::now();
            node.apply(batch, |more| changes.extend(more));
            node.compile(Some(&changes));
            builds.push(build.elapsed());
            if is_probe && let Some(at) = sent_at.take() {
                latencies.push(at.elapsed());
                next_probe = Instant::now() + BETWEEN_PROBES;
            }
        }
        let took = begin.elapsed().as_secs_f64();
        let sent = server.sent()?;
        let source = source_time()? - source_before;
        latencies.sort_unstable();
        builds.sort_unstable();
        let share = |time: Duration| 100.0 * time.as_secs_f64() / took;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let _ = writeln!(
            out,
            "{:.0} changes/s, {:.2} MB/s, {batches_seen} batches in {took:.1} s: source {:.2} %, model {:.2} %, compile {:.2} % of a core",
            (sent.0 - sent_before.0) as f64 / took,
            (sent.1 - sent_before.1) as f64 / took / 1e6,
            share(source),
            share(node.model),
            share(node.compile),
        );
        let _ = writeln!(
            out,
            "  endpoint change to tables, ms: p50 {:.2}, p99 {:.2}, most {:.2} ({} of them); batch in model and compiler, ms: \
             p50 {:.2}, p99 {:.2}, most {:.2}",
            millis(percentile(&latencies, 0.5)),
            millis(percentile(&latencies, 0.99)),
            millis(percentile(&latencies, 1.0)),
            latencies.len(),
            millis(percentile(&builds, 0.5)),
            millis(percentile(&builds, 0.99)),
            millis(percentile(&builds, 1.0)),
        );
    }
    server.set_rate(0)?;
    let _ = writeln!(
        out,
        "resident memory after the changes: {:.1} MiB",
        mib(usage::resident(std::process::id())?)
    );
    drop(batches);
    drop(follower);
    Ok(())
}

fn is_probe(event: &Event) -> bool {
    let Event::Upsert {
        object: Object::EndpointSlice(slice),
        ..
    } = event
    else {
        return false;
    };
    slice
        .service
        .as_ref()
        .is_some_and(|service| &*service.name == "heddle-probe")
}

/// Returns the processor time of a process.
///
/// # Errors
/// The process does not exist.
pub fn process_time(pid: u32) -> Result<Duration, BenchError> {
    let threads: BTreeMap<String, usage::ThreadUse> = usage::threads(pid)?;
    Ok(threads.values().map(|used| used.cpu).sum())
}
