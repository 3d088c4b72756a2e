//! The time of a verdict on a first packet, by the number of rules of its endpoint: the lookups of the address's
//! identity and of the policy's answer, in bursts of 32.
//!
//! `cargo bench -p heddle-compile --bench verdict`. 40 % of the rules name an identity and a port, 40 % a block of /8
//! to /32 with an exception, 20 % an identity and a range of ports. Queries are uniform over the rules; half of them
//! match the rule that they were made for. Before the measurement, a linear search of all rules judges a sample of the
//! queries, and the tables must give the same verdicts. The cost of a change among so many rules is measured too.

#![allow(clippy::print_stdout, reason = "a bench prints its result")]
#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to say")]

use std::cell::RefCell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use heddle_compile::{Attachment, Compiler, NodeConfig};
use heddle_ids::PortId;
use heddle_model::{
    Cluster, Event, IpBlock, LabelSelector, Labels, Namespace, NetworkPolicy, Node, NodeFacts, Object, ObjectKey, Peer,
    Pod, PodPhase, PolicyPort, PolicyPorts, PolicyRule, PortNumber, PortRange, Protocol, Requirement,
};
use heddle_tables::{Direction, Endpoint, EndpointId, PolicyVerdict, Snapshot, WorkerId};
use heddle_wire::{Ip, MacAddr, Proto};
use ipnet::{IpNet, Ipv4Net};
use quanta::Clock;
use rustix::time::{ClockId, clock_gettime};

const BURST: usize = 32;
const SIZES: [(&str, u32); 3] = [("1k rules", 1_000), ("10k rules", 10_000), ("100k rules", 100_000)];
/// The number of queries, which are used in turn.
const QUERIES: usize = 1 << 16;
/// The number of queries that the naive search answers too.
const SAMPLE: usize = 2_000;
/// The number of rules of one policy.
const EACH: usize = 1_000;
const ENDPOINT: EndpointId = EndpointId::FIRST_POD;

/// Pseudo-random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
}

/// A rule before it is compiled.
enum Rule {
    /// Pods of an application, at some ports.
    Pods { app: u32, ports: (u16, u16) },
    /// A block, at any port.
    Block { net: Ipv4Net, hole: Ipv4Net },
}

#[derive(Clone, Copy)]
struct Query {
    from: Ip,
    port: u16,
}

fn rules(count: u32, random: &mut Random) -> Vec<Rule> {
    (0..count)
        .map(|n| match n % 5 {
            0 | 2 => {
                let port = 1 + random.below(60_000) as u16;
                Rule::Pods {
                    app: n,
                    ports: (port, port),
                }
            }
            4 => {
                let first = 1 + random.below(50_000) as u16;
                let last = first + random.below(10_000) as u16;
                Rule::Pods {
                    app: n,
                    ports: (first, last),
                }
            }
            _ => loop {
                let len = 8 + random.below(25) as u8;
                let hole = (len + 1 + random.below(8) as u8).min(32);
                let addr = Ipv4Addr::from(random.below(u32::MAX));
                // 10.0.0.0/8 belongs to the pods.
                if addr.octets()[0] == 10 || len == 32 && hole == 32 && random.below(2) == 0 {
                    continue;
                }
                let net = Ipv4Net::new(addr, len).expect("a length").trunc();
                break Rule::Block {
                    net,
                    hole: Ipv4Net::new(addr, hole).expect("a length").trunc(),
                };
            },
        })
        .collect()
}

/// Returns the address of the pod of an application.
fn pod_address(app: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0100 + app)
}

/// Returns a random address of a network.
fn within(net: Ipv4Net, random: &mut Random) -> Ipv4Addr {
    let host = u32::MAX.checked_shr(net.prefix_len().into()).unwrap_or(0);
    Ipv4Addr::from(u32::from(net.network()) | random.below(u32::MAX) & host)
}

/// Returns a query that the rule matches, or one that it does not.
fn query(rule: &Rule, matching: bool, random: &mut Random) -> Query {
    let (from, port) = match rule {
        Rule::Pods {
            app,
            ports: (first, last),
        } => {
            let port = if matching {
                first + random.below(u32::from(last - first) + 1) as u16
            } else {
                last + 1 + random.below(100) as u16
            };
            (pod_address(*app), port)
        }
        Rule::Block { net, hole } => {
            let from = if !matching {
                within(*hole, random)
            } else {
                let mut from = within(*net, random);
                while hole.contains(&from) && hole != net {
                    from = within(*net, random);
                }
                from
            };
            (from, random.below(65_535) as u16)
        }
    };
    let from = IpAddr::from(from).into();
    Query { from, port }
}

/// Returns the verdict by a linear search of all rules.
fn naive(rules: &[Rule], query: Query) -> bool {
    let IpAddr::V4(from) = query.from.to_std() else {
        return false;
    };
    rules.iter().any(|rule| match rule {
        Rule::Pods {
            app,
            ports: (first, last),
        } => pod_address(*app) == from && (*first..=*last).contains(&query.port),
        Rule::Block { net, hole } => net.contains(&from) && (hole == net || !hole.contains(&from)),
    })
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn port(number: u16) -> PortNumber {
    PortNumber::new(number).expect("not zero")
}

fn as_policy_rule(rule: &Rule) -> PolicyRule {
    match rule {
        Rule::Pods {
            app,
            ports: (first, last),
        } => PolicyRule {
            peers: vec![Peer::Pods {
                namespaces: None,
                pods: LabelSelector::new([Requirement::label("app", format!("a{app}")).expect("a legal label")]),
            }],
            ports: vec![PolicyPort {
                protocol: Protocol::Tcp,
                ports: PolicyPorts::Range(PortRange::new(port(*first), port(*last)).expect("in order")),
            }],
        },
        Rule::Block { net, hole } => PolicyRule {
            peers: vec![Peer::Block(
                IpBlock::new(IpNet::V4(*net), (hole != net).then_some(IpNet::V4(*hole))).expect("a hole in its block"),
            )],
            ports: Vec::new(),
        },
    }
}

fn pod(name: &str, app: u32, address: Ipv4Addr, node: &str) -> Pod {
    Pod {
        key: ObjectKey::new("shop", name),
        uid: "".into(),
        static_uid: None,
        labels: Labels::new([("app", format!("a{app}"))]).expect("a legal label"),
        node: Some(node.into()),
        ips: [address.into()].into(),
        host_network: false,
        phase: PodPhase::Running,
        ports: [].into(),
        ready: true,
        terminating: false,
        created: 0,
    }
}

fn policy(id: usize, rules: &[Rule]) -> NetworkPolicy {
    NetworkPolicy {
        key: ObjectKey::new("shop", format!("policy-{id}")),
        selector: LabelSelector::new([Requirement::label("app", "here").expect("a legal label")]),
        ingress: Some(rules.iter().map(as_policy_rule).collect()),
        egress: None,
        refused: false,
    }
}

struct World {
    rules: Vec<Rule>,
    cluster: Cluster,
    compiler: Compiler,
    snapshot: std::sync::Arc<Snapshot>,
}

impl World {
    fn put(&mut self, object: impl Into<Object>) {
        let changes = self.cluster.apply(Event::Upsert {
            origin: "api".into(),
            object: object.into(),
        });
        let facts = NodeFacts::new(self.cluster.node("here").cloned(), []);
        self.compiler.apply_changes(&self.cluster, &changes, &facts);
    }

    fn of(rules: Vec<Rule>) -> Self {
        let mut world = Self {
            cluster: Cluster::new(),
            compiler: Compiler::new(NodeConfig::named("here")),
            snapshot: std::sync::Arc::default(),
            rules: Vec::new(),
        };
        world.put(Namespace {
            name: "shop".into(),
            labels: Labels::default(),
        });
        for (name, last) in [("here", 1_u8), ("there", 2)] {
            world.put(Node {
                name: name.into(),
                labels: Labels::default(),
                internal_ips: vec![Ipv4Addr::new(192, 168, 0, last).into()],
                external_ips: Vec::new(),
                vtep: None,
                flannel: None,
                pod_cidrs: vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 254, last, 0), 24))],
                ready: true,
                draining: false,
            });
        }
        for rule in &rules {
            if let Rule::Pods { app, .. } = rule {
                world.put(pod(&format!("p{app}"), *app, pod_address(*app), "there"));
            }
        }
        let own = Ipv4Addr::new(10, 255, 0, 1);
        let mut local = pod("local", 0, own, "here");
        local.labels = Labels::new([("app", "here")]).expect("a legal label");
        world.put(local);
        for (id, rules) in rules.chunks(EACH).enumerate() {
            world.put(policy(id, rules));
        }
        world.compiler.attach(Attachment {
            id: ENDPOINT,
            pod: Some(ObjectKey::new("shop", "local")),
            addresses: [Ip::from(own)].into_iter().collect(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            port: PortId(2),
            worker: WorkerId(0),
            mtu: 0,
            host_ports: Box::default(),
        });
        world.snapshot = world.compiler.rebuild().snapshot;
        world.rules = rules;
        world
    }

    fn endpoint(&self) -> &Endpoint {
        self.snapshot.endpoint(ENDPOINT).expect("it is attached")
    }
}

/// Looks up a burst of first packets as a worker does, one after the other: the identity of the source, then the verdict.
fn ask(snapshot: &Snapshot, endpoint: &Endpoint, queries: &[Query; BURST]) -> [PolicyVerdict; BURST] {
    queries.map(|query| endpoint.judge(Direction::Ingress, snapshot.address(query.from), Proto::TCP, query.port))
}

fn queries(rules: &[Rule], random: &mut Random) -> Vec<Query> {
    (0..QUERIES)
        .map(|n| {
            let rule = &rules[random.below(rules.len() as u32) as usize];
            query(rule, n % 2 == 0, random)
        })
        .collect()
}

/// Returns the median of the clock ticks for one query, measured in bursts.
fn ticks(criterion: &mut Criterion, clock: &Clock, name: &str, mut burst: impl FnMut(usize)) -> Option<f64> {
    let samples = RefCell::new(Vec::new());
    let mut group = criterion.benchmark_group("verdict");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut at = 0;
    group.bench_function(name, |b| {
        b.iter_custom(|n| {
            let began = Instant::now();
            for _ in 0..n {
                let before = clock.raw();
                burst(at);
                let after = clock.raw();
                samples.borrow_mut().push((after - before) as f64 / BURST as f64);
                at = (at + 1) % (QUERIES / BURST);
            }
            began.elapsed()
        });
    });
    group.finish();
    let mut samples = samples.into_inner();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    let clock = Clock::new();
    let mut rows = Vec::new();
    for (name, count) in SIZES {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut world = World::of(rules(count, &mut random));
        let queries = queries(&world.rules, &mut random);
        let (mut allowed, endpoint) = (0, world.endpoint());
        let (bursts, _) = queries.as_chunks::<BURST>();
        for burst in bursts.iter().take(SAMPLE.div_ceil(BURST)) {
            for (query, verdict) in burst.iter().zip(ask(&world.snapshot, endpoint, burst)) {
                let want = naive(&world.rules, *query);
                allowed += usize::from(want);
                assert_eq!(verdict.is_allowed(), want, "{} {}", query.from, query.port);
            }
        }
        let snapshot = &world.snapshot;
        let median = ticks(&mut criterion, &clock, name, |at| {
            black_box(ask(snapshot, endpoint, &bursts[at]));
        });
        // Change one rule of one policy, and change it back.
        let mut changes: Vec<Duration> = (0..10)
            .map(|n| {
                let at = EACH.min(world.rules.len());
                let mut changed = policy(0, &world.rules[..at]);
                if n % 2 == 0
                    && let Some(rules) = &mut changed.ingress
                {
                    rules.pop();
                }
                let began = cpu_time();
                world.put(changed);
                world.snapshot = world.compiler.rebuild().snapshot;
                cpu_time() - began
            })
            .collect();
        rows.push((name, median, allowed * 100 / SAMPLE, {
            changes.sort_unstable();
            changes[changes.len() / 2]
        }));
    }
    println!("\nTSC ticks a verdict in bursts of {BURST}, median; share of queries allowed; a policy changed");
    for (name, median, allowed, change) in rows {
        if let Some(ticks) = median {
            println!(
                "{name:<12} {ticks:>7.1} {allowed:>4} % {:>9.1} ms",
                change.as_secs_f64() * 1e3
            );
        }
    }
    criterion.final_summary();
}
