//! TCP streams of the pods of one node: with each other, and with the outside. heddle's agent, and beside it a node whose kernel
//! routes, with connection tracking, DNAT for a Service and masquerade. The paths take turns in each round.
//!
//! Sender, receiver, the worker and the network outside share the machine's processors, so the figures compare paths on this machine.

mod kernel;
mod plan;
mod report;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use heddle_lab::node_group::{NodeGroup, RunningPod};
use heddle_lab::{LabError, NetNs, NodePlan, manifests, wait_until};
use serde_json::json;

use self::kernel::KernelNode;
pub use self::plan::NodePathsPlan;
pub use self::report::{NodeReport, PathStreams};
use crate::cpu::CpuMeter;
use crate::tcp::{self, Direction};
use crate::{BenchError, retransmissions};

/// The address and port of the Service, the same for heddle and for the kernel.
const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 80), 80);
/// The port of the servers.
const PORT: u16 = 8000;
/// The number of the kernel's node in the laboratory.
const KERNEL: u8 = 101;
/// The MTU that some pods have on their routes.
const SMALL_MTU: u16 = 1500;
/// The bound of an event that needs several steps of the agent, also on a busy machine.
const BOUND: Duration = Duration::from_secs(15);

/// A path between two ends.
struct StreamPath<'a> {
    name: &'static str,
    /// The kernel's path that it is compared with.
    peer: &'static str,
    ends: [&'a NetNs; 2],
    /// The address that the first end connects to.
    to: SocketAddr,
    direction: Direction,
}

/// Makes the node and measures every path in each round. `progress` gets a line for each run.
///
/// # Errors
/// A step of the laboratory failed, the binaries are not beside this one, or a stream makes no progress.
pub fn measure(plan: &NodePathsPlan, progress: &dyn Fn(&str)) -> Result<NodeReport, BenchError> {
    let plans = vec![NodePlan {
        cores: plan.core.to_string(),
        ..NodePlan::new("node-1", 1)
    }];
    let mut group = NodeGroup::prepare_plans(plans, &plan.config)?;
    let kernel = KernelNode::new(&group.lab, KERNEL, (SocketAddr::from(SERVICE), PORT))?;
    group.start_agents()?;
    for name in ["client", "server", "small-client", "small-server"] {
        group.add_pod(0, name, name)?;
    }
    add_service(&group)?;
    let [client, server, small_client, small_server] = &group.pods[..] else {
        return Err(BenchError::Unexpected {
            what: "heddle's pods".to_owned(),
            expected: "four".to_owned(),
            got: group.pods.len().to_string(),
        });
    };
    for pod in [small_client, small_server] {
        lower_mtu(pod.ns())?;
    }
    let meter = CpuMeter::new(
        group
            .nodes
            .iter()
            .filter_map(|node| node.agent())
            .map(heddle_lab::Process::id),
    )?;
    let outside = group.lab.outside();
    let out = SocketAddr::new(group.lab.outside_ips()[0], PORT);
    let at = |pod: &RunningPod| Ok::<_, LabError>(SocketAddr::new(pod.ip(false)?, PORT));
    let path = |name, peer, ends, to, direction| StreamPath {
        name,
        peer,
        ends,
        to,
        direction,
    };
    let (up, down) = (Direction::Up, Direction::Down);
    let [kernel_client, kernel_server] = kernel.pods.each_ref();
    let pods = [client.ns(), server.ns()];
    let small = [small_client.ns(), small_server.ns()];
    let beside = [kernel_client, kernel_server];
    let service = SocketAddr::from(SERVICE);
    let paths = [
        path("kernel, pods", "kernel, pods", beside, kernel.server(PORT), up),
        path("heddle, pods", "kernel, pods", pods, at(server)?, up),
        path(
            "heddle, pods, route MTU 1500",
            "kernel, pods",
            small,
            at(small_server)?,
            up,
        ),
        path("kernel, Service", "kernel, Service", beside, service, up),
        path("heddle, Service", "kernel, Service", pods, service, up),
        path(
            "kernel, to outside",
            "kernel, to outside",
            [kernel_client, outside],
            out,
            up,
        ),
        path(
            "heddle, to outside",
            "kernel, to outside",
            [client.ns(), outside],
            out,
            up,
        ),
        path(
            "kernel, from outside",
            "kernel, from outside",
            [kernel_client, outside],
            out,
            down,
        ),
        path(
            "heddle, from outside",
            "kernel, from outside",
            [client.ns(), outside],
            out,
            down,
        ),
    ];
    let mut report = NodeReport::new(plan);
    for count in &plan.streams {
        for path in &paths {
            report.paths.push(PathStreams::new(path.name, path.peer, *count));
        }
    }
    for round in 1..=plan.rounds {
        let runs = plan
            .streams
            .iter()
            .flat_map(|count| paths.iter().map(move |path| (path, *count)));
        for ((path, count), results) in runs.zip(&mut report.paths) {
            let sender = match path.direction {
                Direction::Up => path.ends[0],
                Direction::Down => path.ends[1],
            };
            let before = retransmissions::read(sender)?;
            let run = tcp::streams(path.ends, path.to, PORT, (path.direction, count), plan.time, &meter)?;
            let repeated = retransmissions::read(sender)?.saturating_sub(before);
            progress(&format!(
                "  {round}: {}, {count} streams: {:.2} Gbit/s, {:.2} s a gigabyte, {repeated} segments repeated",
                path.name,
                run.rate / 1e9,
                run.seconds_a_gigabyte()
            ));
            results.runs.push(run);
            results.repeated.push(repeated);
        }
    }
    Ok(report)
}

/// Sets the MTU of all routes of a pod, as a pod does that builds a VPN.
fn lower_mtu(pod: &NetNs) -> Result<(), LabError> {
    let routes = pod.run("ip", &["route", "show"])?;
    for route in routes.lines().filter(|route| !route.is_empty()) {
        let mut words: Vec<&str> = route.split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "mtu") {
            words.drain(at..words.len().min(at + 2));
        }
        let mtu = SMALL_MTU.to_string();
        pod.run("ip", &[&["route", "change"], &words[..], &["mtu", &mtu]].concat())?;
    }
    Ok(())
}

/// Makes the Service in front of the server's pod, and waits until the node knows it.
fn add_service(group: &NodeGroup) -> Result<(), LabError> {
    let server: IpAddr = match group.pods.get(1) {
        Some(pod) => pod.ip(false)?,
        None => return Ok(()),
    };
    let service = manifests::service("shop", "server", &[SERVICE.0.into()], SERVICE.1, PORT);
    let mut slice = manifests::endpoint_slice("shop", "server", false, PORT, &[(server, "server")]);
    slice["ports"] = json!([{"name": service["spec"]["ports"][0]["name"], "port": PORT}]);
    group.apply(&slice)?;
    group.apply(&service)?;
    for node in &group.nodes {
        wait_until("the node knows the Service", BOUND, || {
            Ok(node.status()?["tables"]["frontends"].as_u64().unwrap_or_default() >= 1)
        })?;
    }
    Ok(())
}
