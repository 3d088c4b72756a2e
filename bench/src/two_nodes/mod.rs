//! Pods of two nodes: heddle's agents with VXLAN between them, and beside them two nodes with the kernel's VXLAN device, in one network
//! (a bridge) with the same veths and MTU. The paths take turns in each round.
//!
//! Sender, receiver, both nodes and the network between them share the machine's processors. With two of them, the two workers and the
//! two ends compete, so the figures compare paths on this machine; they are not what two machines would reach.

mod kernel;
mod plan;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use heddle_lab::node_group::{NodeGroup, RunningPod};
use heddle_lab::{LabError, NetNs, NodePlan, manifests, wait_until};
use serde_json::json;

use self::kernel::KernelNodes;
pub use self::plan::NodesPlan;
use self::plan::{PAUSE, set_mtu};
pub use self::report::{NodesReport, PathRuns};
use crate::cpu::CpuMeter;
use crate::datagrams::{self, Datagrams};
use crate::latency::{self, PingPace};
use crate::{BenchError, tcp};

/// The address and port of the Service, the same for heddle and for the kernel.
const SERVICE: ([u8; 4], u16) = ([10, 96, 0, 80], 80);
/// The port of the servers.
const PORT: u16 = 8000;
/// The numbers of the kernel's nodes in the laboratory: with segmentation offload on the uplink, and without.
const KERNEL: [[u8; 2]; 2] = [[101, 102], [103, 104]];
/// The connections of the datagrams.
const CONNECTIONS: u16 = 64;
/// The rates of the datagrams, a second; `None` for as many as one thread sends.
const RATES: [Option<u32>; 3] = [None, Some(100_000), Some(50_000)];
/// The bound of an event that needs several steps of the agent, also on a busy machine.
const BOUND: Duration = Duration::from_secs(15);

/// The nodes and their pods. Dropping it removes them.
#[derive(Debug)]
struct TwoNodes {
    kernel: [KernelNodes; 2],
    group: NodeGroup,
}

/// A path between two pods.
struct PodPath<'a> {
    name: &'static str,
    ends: [&'a NetNs; 2],
    /// The address that the client sends to.
    to: SocketAddr,
    /// True if only TCP differs on this path.
    only_tcp: bool,
}

/// Makes the nodes and measures every path in each round. `config` has keys of the agents' configuration besides the tunnel.
/// `progress` gets a line for each run.
///
/// # Errors
/// A step of the laboratory failed, the binaries are not beside this one, or no packet arrives on a path.
pub fn measure(plan: &NodesPlan, config: &str, progress: &dyn Fn(&str)) -> Result<NodesReport, BenchError> {
    let nodes = TwoNodes::new(plan, config)?;
    let agents = nodes.group.nodes.iter().filter_map(|node| node.agent());
    let meter = CpuMeter::new(agents.map(heddle_lab::Process::id))?;
    let paths = nodes.paths()?;
    let mut report = NodesReport::new(plan, &RATES, CONNECTIONS, &paths.each_ref().map(|path| path.name));
    // The numbers of round trips make each run last about the requested time.
    let seconds = plan.time.as_secs_f64();
    let [rapid, slow] = [(10_000.0, Duration::ZERO), (180.0, PAUSE)].map(|(rate, pause)| PingPace {
        rounds: (seconds * rate) as usize,
        pause,
    });
    for round in 1..=plan.rounds {
        for (path, results) in paths.iter().zip(&mut report.paths) {
            let PodPath { name, ends, to, .. } = *path;
            let stream = tcp::stream(ends, to, PORT, plan.time, &meter)?;
            progress(&format!(
                "  {round}: {name}: {:.2} Gbit/s, {:.2} s a gigabyte",
                stream.rate / 1e9,
                stream.seconds_a_gigabyte()
            ));
            results.streams.push(stream);
            if path.only_tcp {
                continue;
            }
            for (rate, series) in RATES.into_iter().zip(&mut results.datagrams) {
                let datagrams = Datagrams {
                    connections: CONNECTIONS,
                    rate,
                    time: plan.time,
                };
                let run = datagrams::send(ends, to, PORT, datagrams, &meter)?;
                progress(&format!(
                    "  {round}: {name}: {:.0} of {:.0} datagrams a second, {:.2} % lost",
                    run.received,
                    run.offered,
                    run.loss * 100.0
                ));
                series.push(run);
            }
            for (pace, series) in [(rapid, &mut results.rapid), (slow, &mut results.slow)] {
                let times = latency::ping_pong(ends, to, PORT, pace)?;
                progress(&format!(
                    "  {round}: {name}: p50 {:.1} us, p99 {:.1} us",
                    times.p50, times.p99
                ));
                series.push(times);
            }
        }
    }
    Ok(report)
}

impl TwoNodes {
    fn new(plan: &NodesPlan, config: &str) -> Result<Self, BenchError> {
        let plans = [(1, plan.cores[0]), (2, plan.cores[1])].map(|(number, core)| NodePlan {
            cores: core.to_string(),
            ..NodePlan::new(&format!("node-{number}"), number)
        });
        let mut group = NodeGroup::prepare_plans(plans.into(), &format!("tunnel: vxlan\n{config}"))?;
        for node in &group.nodes {
            set_mtu(&group.lab, node.ns(), node.name(), plan.mtu)?;
        }
        let service = (SocketAddr::from(SERVICE), PORT);
        let [with, without] = [(KERNEL[0], true), (KERNEL[1], false)]
            .map(|(numbers, offload)| KernelNodes::new(&group.lab, numbers, plan.mtu, offload, service));
        let kernel = [with?, without?];
        group.start_agents()?;
        group.add_pod(0, "client", "client")?;
        let server = group.add_pod(1, "server", "server")?.ip(false)?;
        add_service(&group, server)?;
        Ok(Self { kernel, group })
    }

    fn paths(&self) -> Result<[PodPath<'_>; 5], BenchError> {
        let [client, server] = &self.group.pods[..] else {
            return Err(BenchError::Unexpected {
                what: "heddle's pods".to_owned(),
                expected: "two".to_owned(),
                got: self.group.pods.len().to_string(),
            });
        };
        let heddle = [client, server].map(RunningPod::ns);
        let kernel = self.kernel.each_ref().map(|nodes| nodes.pods.each_ref());
        let service = SocketAddr::from(SERVICE);
        let path = |name, ends, to| PodPath {
            name,
            ends,
            to,
            only_tcp: false,
        };
        Ok([
            path("heddle", heddle, SocketAddr::new(server.ip(false)?, PORT)),
            path("kernel", kernel[0], SocketAddr::new(self.kernel[0].server(), PORT)),
            path("heddle, ClusterIP", heddle, service),
            path("kernel, DNAT", kernel[0], service),
            PodPath {
                name: "kernel, no offload",
                ends: kernel[1],
                to: SocketAddr::new(self.kernel[1].server(), PORT),
                only_tcp: true,
            },
        ])
    }
}

/// Makes the Service in front of the server's pod, for TCP and UDP, and waits until both nodes know it.
fn add_service(group: &NodeGroup, server: IpAddr) -> Result<(), LabError> {
    let port = |protocol: &str, number: &str, value: u16| {
        let mut port = json!({"name": protocol.to_lowercase(), "protocol": protocol});
        port[number] = json!(value);
        port
    };
    let mut service = manifests::service("shop", "server", &[IpAddr::from(SERVICE.0)], SERVICE.1, PORT);
    let mut slice = manifests::endpoint_slice("shop", "server", false, PORT, &[(server, "server")]);
    slice["ports"] = ["TCP", "UDP"].map(|protocol| port(protocol, "port", PORT)).into();
    service["spec"]["ports"] = ["TCP", "UDP"]
        .map(|protocol| {
            let mut port = port(protocol, "port", SERVICE.1);
            port["targetPort"] = json!(PORT);
            port
        })
        .into();
    group.apply(&slice)?;
    group.apply(&service)?;
    for node in &group.nodes {
        wait_until("the node knows the Service", BOUND, || {
            Ok(node.status()?["tables"]["frontends"].as_u64().unwrap_or_default() >= 2)
        })?;
    }
    Ok(())
}
