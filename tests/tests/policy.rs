//! Policy over real connections: the cases of `tests/cases/live.json` over TCP, UDP and ICMP between pods of one node with two
//! workers. Other tests run the same cases through `heddle simulate` and through the pipeline in memory.
//!
//! Every connection that a step allows is opened and kept open. After the changes of the next step, a connection that is no
//! longer allowed must stop, and one that is still allowed must go on.

#![allow(clippy::expect_used, clippy::panic, reason = "a malformed case has to end the test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{binaries, wait_until};
use heddle_lab::traffic::{self, Conversation, ProbeOutcome, ServerBehavior, Speaker, TcpServer};
use heddle_lab::udp::{UdpConversation, UdpServer};
use heddle_lab::{Lab, LabError, NetNs, Node, NodePlan, Pod};
use serde_json::Value;

/// The bound of one attempt at an allowed connection. Failed attempts are repeated.
const ATTEMPT_BOUND: Duration = Duration::from_secs(1);
/// The time for which a denied attempt must get no answer: some hundred round trips.
const NO_ANSWER_TIME: Duration = Duration::from_millis(500);
/// The bound for a step's verdicts to be in force.
const VERDICTS_BOUND: Duration = Duration::from_secs(10);
/// The time for which a stopped connection must complete no round: thirty times the interval of its rounds.
const STOPPED_TIME: Duration = Duration::from_millis(300);
/// The addresses of the namespace outside.
const OUTSIDE: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];

/// A probe without its expected verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Probe {
    src: String,
    dst: String,
    v6: bool,
    protocol: String,
    port: u16,
}

impl Probe {
    fn parse(probe: &Value) -> Self {
        let end = |end: &Value| {
            let kinds = ["pod", "node", "ip"];
            let name = kinds.iter().find_map(|kind| end[*kind].as_str());
            name.expect("an end is a pod, a node or an address").to_owned()
        };
        let port = probe["port"].as_u64().unwrap_or_default();
        Self {
            src: end(&probe["src"]),
            dst: end(&probe["dst"]),
            v6: probe["src"]["family"] == 6,
            protocol: probe["protocol"].as_str().expect("a protocol").to_owned(),
            port: u16::try_from(port).expect("a port"),
        }
    }
}

/// A connection that is kept open.
enum OpenConnection {
    Tcp(Conversation),
    Udp(UdpConversation),
}

impl OpenConnection {
    fn rounds(&self) -> u64 {
        match self {
            Self::Tcp(connection) => connection.rounds(),
            Self::Udp(connection) => connection.rounds(),
        }
    }
}

type OpenConnections = BTreeMap<Probe, OpenConnection>;

/// The pods of all cases, and a server at every destination of a probe. Fields are dropped in their order.
struct Scene {
    tcp: BTreeMap<(String, u16), TcpServer>,
    udp: BTreeMap<(String, u16), UdpServer>,
    pods: BTreeMap<String, Pod>,
    node: Node,
    lab: Lab,
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

/// Returns the addresses in a pod's status.
fn addresses(pod: &Value) -> BTreeSet<IpAddr> {
    let ips = list(&pod["status"], "podIPs").filter_map(|ip| ip["ip"].as_str());
    ips.map(|ip| ip.parse().expect("an address")).collect()
}

impl Scene {
    fn start(cases: &[Value]) -> Result<Self, LabError> {
        let lab = Lab::new(binaries()?)?;
        let mut node = lab.node(NodePlan {
            pod_cidrs: vec!["10.0.1.0/24".to_owned(), "fd00:1::/64".to_owned()],
            cores: "0,1".to_owned(),
            ..NodePlan::new("node-1", 1)
        })?;
        node.start_agent()?;
        let mut scene = Self {
            tcp: BTreeMap::new(),
            udp: BTreeMap::new(),
            pods: BTreeMap::new(),
            node,
            lab,
        };
        let first = cases.first().expect("a case");
        for object in list(first, "objects").filter(|object| object["kind"] == "Pod") {
            let text = |key: &str| object["metadata"][key].as_str().expect("a name").to_owned();
            let (namespace, name) = (text("namespace"), text("name"));
            let pod = scene.lab.pod(&namespace, &name, &[])?;
            let attached = scene.node.start_pod(&pod)?;
            // A node gives out its addresses in order, so the cases can contain them.
            let given: BTreeSet<IpAddr> = attached.ips.iter().copied().collect();
            assert_eq!(given, addresses(object), "{namespace}/{name}");
            scene.pods.insert(format!("{namespace}/{name}"), pod);
        }
        let steps = cases.iter().flat_map(|case| list(case, "steps"));
        for probe in steps.flat_map(|step| list(step, "probes")).map(Probe::parse) {
            let ns = scene.ns(&probe.dst).clone();
            let at = (ns.name().to_owned(), probe.port);
            if probe.protocol == "TCP" && !scene.tcp.contains_key(&at) {
                scene
                    .tcp
                    .insert(at, TcpServer::start(&ns, probe.port, ServerBehavior::Echo)?);
            } else if probe.protocol == "UDP" && !scene.udp.contains_key(&at) {
                scene.udp.insert(at, UdpServer::echo(&ns, probe.port)?);
            }
        }
        Ok(scene)
    }

    fn ns(&self, who: &str) -> &NetNs {
        match self.pods.get(who) {
            Some(pod) => pod.ns(),
            None if who == self.node.name() => self.node.ns(),
            None if OUTSIDE.contains(&who) => self.lab.outside(),
            None => panic!("a case of this suite has no {who}"),
        }
    }

    fn to(&self, probe: &Probe, objects: &[&Value]) -> SocketAddr {
        let ip = if probe.dst == self.node.name() {
            self.node.internal_ips()[usize::from(probe.v6)]
        } else if let Ok(ip) = probe.dst.parse() {
            ip
        } else {
            let is_it = |o: &Value| {
                let meta = &o["metadata"];
                o["kind"] == "Pod" && format!("{}/{}", text(&meta["namespace"]), text(&meta["name"])) == probe.dst
            };
            let pod = objects.iter().find(|object| is_it(object)).expect("the pod's object");
            let of_family = addresses(pod).into_iter().find(|ip| ip.is_ipv6() == probe.v6);
            of_family.expect("an address of the family")
        };
        SocketAddr::new(ip, probe.port)
    }

    /// Sends a probe once.
    fn attempt(&self, probe: &Probe, to: SocketAddr, bound: Duration) -> Result<ProbeOutcome, LabError> {
        let from = self.ns(&probe.src);
        match probe.protocol.as_str() {
            "TCP" => traffic::tcp_request(from, to, "word\n", bound),
            "UDP" => traffic::udp_request(from, to, b"word", bound),
            _ => Ok(match traffic::ping(from, to.ip(), 1)? {
                0 => ProbeOutcome::NoAnswer,
                _ => ProbeOutcome::Answered("word".to_owned()),
            }),
        }
    }

    /// Sends all probes concurrently and returns those with another outcome than expected.
    fn differing<'a>(
        &self,
        wanted: &'a [(Probe, SocketAddr, bool)],
    ) -> Result<Vec<(&'a Probe, ProbeOutcome)>, LabError> {
        let answers = std::thread::scope(|threads| {
            let attempts: Vec<_> = wanted
                .iter()
                .map(|(probe, to, allowed)| {
                    let bound = if *allowed { ATTEMPT_BOUND } else { NO_ANSWER_TIME };
                    threads.spawn(move || self.attempt(probe, *to, bound))
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(answer) => answer,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            attempts
                .into_iter()
                .map(join)
                .collect::<Result<Vec<ProbeOutcome>, LabError>>()
        })?;
        let differs = |allowed: bool, outcome: &ProbeOutcome| match outcome {
            ProbeOutcome::Answered(word) => !allowed || word != "word",
            ProbeOutcome::NoAnswer => allowed,
            ProbeOutcome::Refused | ProbeOutcome::Unreachable => true,
        };
        let pairs = wanted.iter().zip(answers);
        Ok(pairs
            .filter(|((_, _, allowed), outcome)| differs(*allowed, outcome))
            .map(|((probe, ..), outcome)| (probe, outcome))
            .collect())
    }

    /// Checks one step, whose changes have been written. `open` contains the open connections of earlier steps.
    fn check_step(
        &self,
        at: &str,
        step: &Value,
        objects: &[&Value],
        open: &mut OpenConnections,
    ) -> Result<(), LabError> {
        let wanted: Vec<(Probe, SocketAddr, bool)> = list(step, "probes")
            .map(|value| {
                let probe = Probe::parse(value);
                let to = self.to(&probe, objects);
                (probe, to, value["expect"]["verdict"] == "allow")
            })
            .collect();
        let start = Instant::now();
        // The changes outcome the workers after some time: repeat until all verdicts match.
        loop {
            let differing = self.differing(&wanted)?;
            if differing.is_empty() {
                break;
            }
            assert!(start.elapsed() < VERDICTS_BOUND, "{at}: {differing:#?}");
        }
        let (may, may_not): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(.., allowed)| *allowed);
        let rounds = |open: &OpenConnections, of: &[(Probe, SocketAddr, bool)]| -> Vec<u64> {
            let known = of.iter().filter_map(|(probe, ..)| open.get(probe));
            known.map(OpenConnection::rounds).collect()
        };
        wait_until(&format!("{at}: connections that are no longer allowed stop"), || {
            let before = rounds(open, &may_not);
            if !before.is_empty() {
                // The absence of an event cannot be awaited, only observed for a time.
                std::thread::sleep(STOPPED_TIME);
            }
            Ok(rounds(open, &may_not) == before)
        })?;
        let before = rounds(open, &may);
        wait_until(&format!("{at}: connections that are still allowed go on"), || {
            let now = rounds(open, &may);
            Ok(now.iter().zip(&before).all(|(now, before)| *now >= before + 3))
        })?;
        open.retain(|probe, _| may.iter().any(|(allowed, ..)| allowed == probe));
        for (probe, to, _) in may {
            if open.contains_key(&probe) {
                continue;
            }
            let from = self.ns(&probe.src);
            let connection = match probe.protocol.as_str() {
                "TCP" => OpenConnection::Tcp(Conversation::start(from, to, Speaker::Client)?),
                "UDP" => OpenConnection::Udp(UdpConversation::start(from, to)?),
                _ => continue,
            };
            open.insert(probe, connection);
        }
        wait_until(&format!("{at}: new connections complete rounds"), || {
            Ok(open.values().all(|connection| connection.rounds() >= 2))
        })
    }

    /// Returns the version of the tables that every worker has acknowledged.
    fn version(&self) -> Result<u64, LabError> {
        Ok(self.node.status()?["snapshot"]["acknowledged"]
            .as_u64()
            .unwrap_or_default())
    }

    /// Waits until tables newer than `before` are in force, so that the first attempt does not meet the old ones. A step that
    /// changes no table (because its object is rejected) only costs the bound.
    fn wait_for_newer_tables(&self, before: u64) -> Result<(), LabError> {
        let mut last = before;
        let newer = heddle_lab::wait_until("newer tables", STOPPED_TIME, || {
            let now = self.version()?;
            let stays = now == last && now != before;
            last = now;
            Ok(stays)
        });
        match newer {
            Err(LabError::Timeout { .. }) => Ok(()),
            other => other,
        }
    }

    /// Writes a case's objects, runs its steps and removes its policies.
    fn run_case(&self, case: &Value) -> Result<(), LabError> {
        let id = text(&case["id"]);
        // The laboratory has written the node's own object already.
        let mut objects: Vec<&Value> = list(case, "objects").filter(|o| o["kind"] != "Node").collect();
        let mut before = self.version()?;
        for object in &objects {
            self.node.apply(object)?;
        }
        let mut open = OpenConnections::new();
        for (number, step) in list(case, "steps").enumerate() {
            for object in list(step, "apply") {
                self.node.apply(object)?;
                objects.retain(|known| !is_same(known, object));
                objects.push(object);
            }
            for object in list(step, "delete") {
                self.node.delete(object)?;
                objects.retain(|known| !is_same(known, object));
            }
            self.wait_for_newer_tables(before)?;
            self.check_step(&format!("{id} step {number}"), step, &objects, &mut open)?;
            before = self.version()?;
        }
        let policy = |object: &&&Value| text(&object["kind"]).ends_with("NetworkPolicy");
        objects
            .iter()
            .filter(policy)
            .try_for_each(|object| self.node.delete(object))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_same(one: &Value, other: &Value) -> bool {
    let key = |o: &Value| {
        [&o["kind"], &o["metadata"]["namespace"], &o["metadata"]["name"]]
            .map(text)
            .map(str::to_owned)
    };
    key(one) == key(other)
}

#[test]
fn the_cases_hold_over_real_connections_while_policy_changes() -> Result<(), LabError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/live.json");
    let file = std::fs::read_to_string(&path).map_err(LabError::io(format!("reading {}", path.display())))?;
    let suite: Value = serde_json::from_str(&file).expect("JSON");
    let cases = suite["cases"].as_array().expect("cases");
    let scene = Scene::start(cases)?;
    for case in cases {
        scene.run_case(case)?;
    }
    let dropped = ["shop/web", "shop/db", "lab/probe"].map(|pod| -> Result<u64, LabError> {
        Ok(common::drops(&scene.node.status()?, &format!("pod:{pod}"), "policy"))
    });
    for dropped in dropped {
        assert!(
            dropped? > 0,
            "policy drops are counted at the port where the packet came in"
        );
    }
    Ok(())
}
