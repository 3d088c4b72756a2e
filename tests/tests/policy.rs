//! Policy over real connections: the cases of `tests/cases/live.json`, whose verdicts `heddle simulate` and the pipeline in
//! memory give too (`control/agent/tests/cases`), over TCP, UDP and ICMP between pods of one node, by two workers.
//!
//! What a step allows is opened and kept open. In the next step, after its changes, a connection that is no longer allowed
//! must stand still, and one that still is must go on.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a case that is none is to end it"
)]

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

/// How long one attempt at what is allowed may take; it is repeated.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long nobody may answer what is denied: some hundred round trips.
const QUIET: Duration = Duration::from_millis(500);
/// By when a step's verdicts must be there.
const SETTLED: Duration = Duration::from_secs(10);
/// How long a stopped connection is watched: thirty of its words.
const STILL: Duration = Duration::from_millis(300);
/// The namespace outside, by its addresses.
const OUTSIDE: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];

/// What a probe asks, without what it expects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ask {
    src: String,
    dst: String,
    v6: bool,
    protocol: String,
    port: u16,
}

impl Ask {
    fn of(probe: &Value) -> Self {
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
enum Talk {
    Tcp(Conversation),
    Udp(UdpConversation),
}

impl Talk {
    fn rounds(&self) -> u64 {
        match self {
            Self::Tcp(talk) => talk.rounds(),
            Self::Udp(talk) => talk.rounds(),
        }
    }
}

type Talks = BTreeMap<Ask, Talk>;

/// The pods of every case, and servers at whatever a probe asks for. Fields drop in their order.
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

/// The addresses of a pod's status.
fn addresses(pod: &Value) -> BTreeSet<IpAddr> {
    let ips = list(&pod["status"], "podIPs").filter_map(|ip| ip["ip"].as_str());
    ips.map(|ip| ip.parse().expect("an address")).collect()
}

impl Scene {
    fn open(cases: &[Value]) -> Result<Self, LabError> {
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
            // A node gives its addresses in turn, so the cases can name them.
            let given: BTreeSet<IpAddr> = attached.ips.iter().copied().collect();
            assert_eq!(given, addresses(object), "{namespace}/{name}");
            scene.pods.insert(format!("{namespace}/{name}"), pod);
        }
        let steps = cases.iter().flat_map(|case| list(case, "steps"));
        for ask in steps.flat_map(|step| list(step, "probes")).map(Ask::of) {
            let ns = scene.ns(&ask.dst).clone();
            let at = (ns.name().to_owned(), ask.port);
            if ask.protocol == "TCP" && !scene.tcp.contains_key(&at) {
                scene
                    .tcp
                    .insert(at, TcpServer::start(&ns, ask.port, ServerBehavior::Echo)?);
            } else if ask.protocol == "UDP" && !scene.udp.contains_key(&at) {
                scene.udp.insert(at, UdpServer::echo(&ns, ask.port)?);
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

    fn to(&self, ask: &Ask, objects: &[&Value]) -> SocketAddr {
        let ip = if ask.dst == self.node.name() {
            self.node.internal_ips()[usize::from(ask.v6)]
        } else if let Ok(ip) = ask.dst.parse() {
            ip
        } else {
            let is_it = |o: &Value| {
                let meta = &o["metadata"];
                o["kind"] == "Pod" && format!("{}/{}", text(&meta["namespace"]), text(&meta["name"])) == ask.dst
            };
            let pod = objects.iter().find(|object| is_it(object)).expect("the pod's object");
            let of_family = addresses(pod).into_iter().find(|ip| ip.is_ipv6() == ask.v6);
            of_family.expect("an address of the family")
        };
        SocketAddr::new(ip, ask.port)
    }

    /// Tries it once.
    fn attempt(&self, ask: &Ask, to: SocketAddr, patience: Duration) -> Result<ProbeOutcome, LabError> {
        let from = self.ns(&ask.src);
        match ask.protocol.as_str() {
            "TCP" => traffic::tcp_request(from, to, "word\n", patience),
            "UDP" => traffic::udp_request(from, to, b"word", patience),
            _ => Ok(match traffic::ping(from, to.ip(), 1)? {
                0 => ProbeOutcome::NoAnswer,
                _ => ProbeOutcome::Answered("word".to_owned()),
            }),
        }
    }

    /// Tries all at once, and gives those that turn out otherwise.
    fn differing<'a>(&self, wanted: &'a [(Ask, SocketAddr, bool)]) -> Result<Vec<(&'a Ask, ProbeOutcome)>, LabError> {
        let answers = std::thread::scope(|threads| {
            let attempts: Vec<_> = wanted
                .iter()
                .map(|(ask, to, allowed)| {
                    let patience = if *allowed { PATIENCE } else { QUIET };
                    threads.spawn(move || self.attempt(ask, *to, patience))
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
        let differs = |allowed: bool, reach: &ProbeOutcome| match reach {
            ProbeOutcome::Answered(word) => !allowed || word != "word",
            ProbeOutcome::NoAnswer => allowed,
            ProbeOutcome::Refused | ProbeOutcome::Unreachable => true,
        };
        let pairs = wanted.iter().zip(answers);
        Ok(pairs
            .filter(|((_, _, allowed), reach)| differs(*allowed, reach))
            .map(|((ask, ..), reach)| (ask, reach))
            .collect())
    }

    /// Plays one step: what it changes is done; `talks` are those of the steps before.
    fn step(&self, at: &str, step: &Value, objects: &[&Value], talks: &mut Talks) -> Result<(), LabError> {
        let wanted: Vec<(Ask, SocketAddr, bool)> = list(step, "probes")
            .map(|probe| {
                let ask = Ask::of(probe);
                let to = self.to(&ask, objects);
                (ask, to, probe["expect"]["verdict"] == "allow")
            })
            .collect();
        let start = Instant::now();
        // A change takes its time to reach the workers.
        loop {
            let differing = self.differing(&wanted)?;
            if differing.is_empty() {
                break;
            }
            assert!(start.elapsed() < SETTLED, "{at}: {differing:#?}");
        }
        let (may, may_not): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(.., allowed)| *allowed);
        let rounds = |talks: &Talks, of: &[(Ask, SocketAddr, bool)]| -> Vec<u64> {
            let known = of.iter().filter_map(|(ask, ..)| talks.get(ask));
            known.map(Talk::rounds).collect()
        };
        wait_until(&format!("{at}: what is not allowed any longer stands still"), || {
            let before = rounds(talks, &may_not);
            if !before.is_empty() {
                // Nothing tells that nothing happens.
                std::thread::sleep(STILL);
            }
            Ok(rounds(talks, &may_not) == before)
        })?;
        let before = rounds(talks, &may);
        wait_until(&format!("{at}: what is still allowed goes on"), || {
            let now = rounds(talks, &may);
            Ok(now.iter().zip(&before).all(|(now, before)| *now >= before + 3))
        })?;
        talks.retain(|ask, _| may.iter().any(|(allowed, ..)| allowed == ask));
        for (ask, to, _) in may {
            if talks.contains_key(&ask) {
                continue;
            }
            let from = self.ns(&ask.src);
            let talk = match ask.protocol.as_str() {
                "TCP" => Talk::Tcp(Conversation::start(from, to, Speaker::Client)?),
                "UDP" => Talk::Udp(UdpConversation::start(from, to)?),
                _ => continue,
            };
            talks.insert(ask, talk);
        }
        wait_until(&format!("{at}: what is allowed talks"), || {
            Ok(talks.values().all(|talk| talk.rounds() >= 2))
        })
    }

    /// The version of the tables that every worker has.
    fn version(&self) -> Result<u64, LabError> {
        Ok(self.node.status()?["snapshot"]["acknowledged"]
            .as_u64()
            .unwrap_or_default())
    }

    /// Waits a moment for newer tables than `before` that stay, so that the first attempt is not at the old ones. What
    /// changes no table (a refused object) is not waited for long.
    fn settle(&self, before: u64) -> Result<(), LabError> {
        let start = Instant::now();
        let mut last = before;
        while start.elapsed() < STILL {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.version()?;
            if now == last && now != before {
                break;
            }
            last = now;
        }
        Ok(())
    }

    fn play(&self, case: &Value) -> Result<(), LabError> {
        let id = text(&case["id"]);
        // The node's own object stands already, as the laboratory has it.
        let mut objects: Vec<&Value> = list(case, "objects").filter(|o| o["kind"] != "Node").collect();
        let mut before = self.version()?;
        for object in &objects {
            self.node.apply(object)?;
        }
        let mut talks = Talks::new();
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
            self.settle(before)?;
            self.step(&format!("{id} step {number}"), step, &objects, &mut talks)?;
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
    let scene = Scene::open(cases)?;
    for case in cases {
        scene.play(case)?;
    }
    let dropped = ["shop/web", "shop/db", "lab/probe"].map(|pod| -> Result<u64, LabError> {
        Ok(common::drops(&scene.node.status()?, &format!("pod:{pod}"), "policy"))
    });
    for dropped in dropped {
        assert!(dropped? > 0, "what policy denies is counted where it came in");
    }
    Ok(())
}
