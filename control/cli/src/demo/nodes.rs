//! The demo's second part: two nodes with three pods each, and a client outside of the cluster, over VXLAN and without a tunnel.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use heddle_lab::node_group::{NodeGroup, RunningPod, SERVICE_PORT, TELL_PORT};
use heddle_lab::shop::Shop;
use heddle_lab::traffic::{self, ProbeOutcome};
use heddle_lab::{NetNs, NodePlan, WireCount, WireCounter, wait_until};
use serde_json::json;

use super::error::DemoError;
use super::matrix::{Cell, Matrix, Sight};
use super::stage::Stage;

/// The time limit of a connection: enough for the second retry of a handshake.
const BOUND: Duration = Duration::from_secs(4);
/// The port of the Service at each node.
const NODE_PORT: u16 = 30_080;
/// The names of the pods on each node. The last one of each node is a backend of the Service.
const PODS: [[&str; 3]; 2] = [["a1", "a2", "a3"], ["b1", "b2", "b3"]];
/// The backends, as indices of the pods: the last pod of each node.
const BACKENDS: [usize; 2] = [2, 5];
/// The fewest and the most connections to a Service. If two backends are chosen fairly, all of 64 connections go to one of
/// them with a probability of 2^-63.
const CONNECTIONS: std::ops::RangeInclusive<usize> = 8..=64;
/// Returns the source that a pod of a node sees when it reaches itself through a Service: the gateway's address, or with IPv6 the second
/// one of the node's range.
fn source_of_itself(node: usize, v6: bool) -> IpAddr {
    if v6 {
        let number = u16::try_from(node + 1).unwrap_or(u16::MAX);
        return IpAddr::from([0xfd00, number, 0, 0, 0, 0, 0, 2]);
    }
    IpAddr::from([169, 254, 1, 1])
}

/// Builds the nodes, probes them over VXLAN and over direct routing, and removes them. Returns true if all results are as
/// expected.
pub(super) fn run(stage: &mut Stage) -> Result<bool, DemoError> {
    let mut group = build(stage)?;
    let wire = WireCounter::start(&group.lab, &group.nodes[0])?;
    let mut as_expected = true;
    for tunnel in ["vxlan", "none"] {
        stage.chapter(&format!("Who reaches whom with `tunnel: {tunnel}`"))?;
        // The agents already run with the first one.
        if tunnel == "none" {
            stage.print("   both agents restart with the other configuration; the pods stay as they are")?;
            group.restart_agents(&config(tunnel))?;
        }
        stage.print("   each cell: the server answered, and saw a connection from this address")?;
        wait_for_backends(&group)?;
        wire.take()?;
        for v6 in [false, true] {
            let matrix = probe(stage, &group, v6)?;
            stage.print(&matrix.lines())?;
            as_expected &= matrix.is_as_expected();
        }
        as_expected &= report_wire(stage, wire.take()?, tunnel == "vxlan")?;
    }
    Ok(as_expected)
}

/// Prints which way the packets from node-1 took. Returns true if all of them took the expected one.
fn report_wire(stage: &mut Stage, count: WireCount, tunnel: bool) -> Result<bool, DemoError> {
    let WireCount { vxlan, direct } = count;
    let as_expected = if tunnel {
        vxlan > 0 && direct == 0
    } else {
        vxlan == 0 && direct > 0
    };
    let mark = if as_expected {
        "as expected"
    } else {
        "NO, not as expected"
    };
    stage.print(&format!(
        "   on the wire from node-1: {vxlan} VXLAN packets, {direct} packets between pods without a tunnel: {mark}"
    ))?;
    Ok(as_expected)
}

/// Returns the configuration of the agents.
fn config(tunnel: &str) -> String {
    format!("tunnel: {tunnel}\n")
}

/// Creates the nodes, the pods and the Service.
fn build(stage: &mut Stage) -> Result<NodeGroup, DemoError> {
    stage.chapter("Two nodes, three pods on each, and a client outside of the cluster")?;
    let plans = (1..=2).map(|number| {
        let mut plan = NodePlan::new(&format!("node-{number}"), number);
        // Short addresses keep the tables narrow.
        plan.pod_cidrs = vec![format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")];
        plan
    });
    let mut group = NodeGroup::prepare_plans(plans.collect(), &config("vxlan"))?;
    group.start_agents()?;
    for (node, names) in PODS.iter().enumerate() {
        let [v4, v6] = group.nodes[node].internal_ips();
        let name = group.nodes[node].name().to_owned();
        stage.print(&format!("   {name} with {v4} and {v6}, pods {}", names.join(", ")))?;
        for (index, pod) in names.iter().enumerate() {
            stage.check()?;
            let app = if index + 1 == names.len() { "web" } else { "client" };
            group.add_pod(node, pod, app)?;
        }
    }
    let [v4, v6] = group.lab.outside_ips();
    stage.print(&format!(
        "   outside, a client with {v4} and {v6}; a veth pair for each node leads to a bridge there"
    ))?;
    let spec = json!({"type": "NodePort", "nodePort": NODE_PORT});
    group.add_service("web", &Shop::SERVICE_IPS, &BACKENDS, &spec)?;
    let [s4, s6] = Shop::SERVICE_IPS;
    stage.print(&format!(
        "   Service shop/web at {s4} and {s6}, and at port {NODE_PORT} of each node; its backends are a3 and b3"
    ))?;
    Ok(group)
}

/// Waits until the tables of each node contain the Service's backends, one for each pod and family.
fn wait_for_backends(group: &NodeGroup) -> Result<(), DemoError> {
    for node in &group.nodes {
        wait_until("the nodes know the backends", Duration::from_secs(5), || {
            let backends = node.status()?["tables"]["backends"].as_u64();
            Ok(backends >= Some(2 * BACKENDS.len() as u64))
        })?;
    }
    Ok(())
}

/// Probes all pairs of sources and destinations over one family.
fn probe(stage: &Stage, group: &NodeGroup, v6: bool) -> Result<Matrix, DemoError> {
    let family = usize::from(v6);
    let service = SocketAddr::new(Shop::SERVICE_IPS[family], SERVICE_PORT);
    let mut servers = Vec::new();
    for pod in &group.pods {
        servers.push((pod.pod.name.clone(), pod.ip(v6)?));
    }
    for node in &group.nodes {
        servers.push((node.name().to_owned(), node.internal_ips()[family]));
    }
    let backends = BACKENDS.map(|index| &group.pods[index]);
    let by_backend = backends.map(|backend| (format!("Service by {}", backend.pod.name), service.ip()));
    let mut matrix = Matrix::new(servers.iter().cloned().chain(by_backend));
    let probes = Probes { stage, servers };

    for pod in &group.pods {
        let own = pod.ip(v6)?;
        let mut cells = probes.servers(pod.ns(), &pod.pod.name, own)?;
        let source = |backend: &RunningPod| {
            if backend.pod.name == pod.pod.name {
                source_of_itself(pod.node, v6)
            } else {
                own
            }
        };
        cells.extend(probes.service(pod.ns(), service, backends.map(|b| (b, source(b))))?);
        matrix.add(&pod.pod.name, cells);
    }
    for node in &group.nodes {
        let own = node.internal_ips()[family];
        let mut cells = probes.servers(node.ns(), node.name(), own)?;
        cells.extend(probes.service(node.ns(), service, backends.map(|backend| (backend, own)))?);
        matrix.add(node.name(), cells);
    }
    for (index, node) in group.nodes.iter().enumerate() {
        let own = node.internal_ips()[family];
        let mut cells: Vec<Cell> = probes.servers.iter().map(|_| Cell::untried()).collect();
        // The reply must come back by this node, so the backend sees an address of it.
        let source = |backend: &RunningPod| {
            if backend.node == index {
                masquerade_address(index, v6)
            } else {
                own
            }
        };
        let to = SocketAddr::new(own, NODE_PORT);
        cells.extend(probes.service(group.lab.outside(), to, backends.map(|b| (b, source(b))))?);
        matrix.add(&format!("outside, by {}:{NODE_PORT}", node.name()), cells);
    }
    Ok(matrix)
}

/// Returns the address to which heddle masquerades within a node: the second one of the node's pod range.
fn masquerade_address(node: usize, v6: bool) -> IpAddr {
    let number = node as u8 + 1;
    if v6 {
        IpAddr::from([0xfd00, u16::from(number), 0, 0, 0, 0, 0, 2])
    } else {
        IpAddr::from([10, 244, number, 2])
    }
}

/// The servers that each source tries, by name and address.
struct Probes<'a> {
    stage: &'a Stage,
    servers: Vec<(String, IpAddr)>,
}

impl Probes<'_> {
    /// Connects to each server but the source's own one. All of them should see the source's address.
    fn servers(&self, from: &NetNs, name: &str, source: IpAddr) -> Result<Vec<Cell>, DemoError> {
        let mut cells = Vec::new();
        for (server, ip) in &self.servers {
            cells.push(if server == name {
                Cell::untried()
            } else {
                Cell::new(
                    &self.ask(from, SocketAddr::new(*ip, TELL_PORT))?,
                    &Sight { server, source },
                )
            });
        }
        Ok(cells)
    }

    /// Connects to a Service until each backend has answered. `backends` has the address that each of them should see.
    fn service(
        &self,
        from: &NetNs,
        to: SocketAddr,
        backends: [(&RunningPod, IpAddr); 2],
    ) -> Result<Vec<Cell>, DemoError> {
        let sights = backends.map(|(pod, source)| Sight {
            server: &pod.pod.name,
            source,
        });
        let mut outcomes = Vec::new();
        let all_answered = |outcomes: &[ProbeOutcome]| {
            sights
                .iter()
                .all(|sight| outcomes.iter().any(|outcome| sight.is_of_server(outcome)))
        };
        while outcomes.len() < *CONNECTIONS.start() || outcomes.len() < *CONNECTIONS.end() && !all_answered(&outcomes) {
            let outcome = self.ask(from, to)?;
            let failed = !outcome.is_answered();
            outcomes.push(outcome);
            // The table shows it. Waiting for more of the same would only take time.
            if failed {
                break;
            }
        }
        Ok(Cell::of_backends(&outcomes, &sights))
    }

    /// Connects to a server, which tells its name and the address that it sees.
    fn ask(&self, from: &NetNs, to: SocketAddr) -> Result<ProbeOutcome, DemoError> {
        self.stage.check()?;
        Ok(traffic::tcp_request(from, to, "", BOUND)?)
    }
}
