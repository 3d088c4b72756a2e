//! The wall-clock time from an event of a source to the first packets that every worker handles by the changed tables,
//! with two workers that poll. Other work on the machine is included, so compare medians. On two cores three threads
//! share the time.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use criterion::Criterion;
use heddle_compile::Attachment;
use heddle_engine::connection_hash;
use heddle_ids::PortId;
use heddle_model::{Event, IpBlock, NetworkPolicy, Peer, Pod, PolicyRule};
use heddle_tables::{Backend, Backends, Choice, EndpointId, WorkerId};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, MacAddr, Parsed, Proto};

use crate::cluster::{self, Size, World, matching, pod, tcp};
use crate::policy;
use crate::report::{Report, cpu_time, millis};
use crate::services;
use crate::workers::{Client, Seen, WORKERS, Workers};

/// The time of each call.
#[derive(Default)]
struct Times {
    work: Vec<Duration>,
    taken: Vec<Duration>,
    answered: Vec<Duration>,
}

impl Times {
    fn add_to(self, report: &mut Report, case: &str) {
        for (what, mut times) in [
            ("work", self.work),
            ("until every worker has the tables", self.taken),
            ("until every worker answers by them", self.answered),
        ] {
            if times.is_empty() {
                continue;
            }
            times.sort_unstable();
            let at = |percent: usize| {
                millis(
                    times
                        .get((times.len() - 1) * percent / 100)
                        .copied()
                        .unwrap_or_default(),
                )
            };
            report.add(
                &format!("{case}: {what}"),
                format!("{} ({}, {})", at(50), at(99), at(100)),
            );
        }
    }
}

/// A cluster, and workers that have its tables.
struct Node {
    world: World,
    workers: Workers,
    times: Times,
}

impl Node {
    fn new(mut world: World, clients: &[Client]) -> Self {
        let tables = world.compiler.rebuild().snapshot;
        Self {
            workers: Workers::start(tables, clients),
            world,
            times: Times::default(),
        }
    }

    /// Applies a change, and waits until the packet of each client has left by the new tables.
    fn follow(&mut self, event: Event, asked: &[Vec<u8>]) -> (Duration, Vec<Parsed>) {
        let (began, cpu) = (Instant::now(), cpu_time());
        let changes = self.world.cluster.apply(event);
        self.world.record(&changes);
        let built = self.world.compiler.rebuild();
        let work = cpu_time() - cpu;
        assert!(built.changed, "there is something to publish");
        let (Seen { taken, answered }, left) = self.workers.publish(built.snapshot, asked, began);
        self.times.work.push(work);
        self.times.taken.push(taken);
        self.times.answered.push(answered);
        (answered, left)
    }
}

/// Calls `once` as often as criterion wants, each time with the number of the call, and records the times of all calls.
fn calls(
    criterion: &mut Criterion,
    report: &mut Report,
    (case, size): (&str, &str),
    make: impl Fn() -> Node,
    mut once: impl FnMut(&mut Node, u32) -> Duration,
) {
    let made = RefCell::new(None);
    let mut number = 0;
    criterion.bench_function(&format!("{case}/{size}"), |b| {
        let mut made = made.borrow_mut();
        let node = made.get_or_insert_with(&make);
        b.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    number += 1;
                    once(node, number)
                })
                .sum()
        });
    });
    if let Some(node) = made.into_inner() {
        node.times.add_to(report, case);
    }
}

/// Returns pods without a Kubernetes object, one for each worker.
fn strangers() -> [Client; WORKERS as usize] {
    std::array::from_fn(|n| Client {
        id: EndpointId(EndpointId::FIRST_POD.0 + n as u16),
        ip: Ip::from_v4([10, 200, 0, 1 + n as u8]),
        mac: MacAddr([2, 0, 0, 0, 0, n as u8]),
        worker: WorkerId(n as u8),
    })
}

/// Replaces one endpoint of one Service. A connection for which the new endpoint is chosen must reach it.
fn endpoint(criterion: &mut Criterion, report: &mut Report) {
    for (name, count) in services::SIZES {
        let clients = strangers();
        let make = || {
            let mut world = services::world(count);
            for client in clients {
                world.compiler.attach(Attachment {
                    id: client.id,
                    pod: None,
                    addresses: [client.ip].into_iter().collect(),
                    mac: client.mac,
                    port: PortId(client.id.0),
                    worker: client.worker,
                    mtu: 0,
                    host_ports: Box::default(),
                });
            }
            Node::new(world, &clients)
        };
        // Each packet opens a new connection. The Services take turns, so that the source ports suffice: each Service
        // has its own count.
        let mut sports = vec![1024u16; count as usize];
        calls(
            criterion,
            report,
            ("visible/one endpoint", name),
            make,
            |node, version| {
                let id = version.wrapping_mul(7) % count;
                let (to, sport) = (services::address(id), &mut sports[id as usize]);
                let slice = services::slice(id, version);
                let backend = |ip: IpAddr| Backend {
                    ip: ip.into(),
                    port: 8080,
                };
                let new = backend(slice.endpoints[0].address);
                let backends = Backends::new(slice.endpoints.iter().map(|e| backend(e.address)), false);
                let asked = clients.map(|client| {
                    loop {
                        *sport = sport.checked_add(1).expect("a port that was not asked from");
                        let tuple = Tuple {
                            src: client.ip,
                            dst: to,
                            sport: *sport,
                            dport: 80,
                        };
                        if backends.pick(connection_hash(&tuple, Proto::TCP)) == Choice::Backend(&new) {
                            return client.syn(to, *sport, 80);
                        }
                    }
                });
                let event = Event::Upsert {
                    origin: "api".into(),
                    object: slice.into(),
                };
                let (answered, left) = node.follow(event, &asked);
                assert!(left.iter().all(|p| p.dst == new.ip && p.dport == 8080), "{left:?}");
                answered
            },
        );
    }
}

/// The destination port outside that policy always allows.
const OPEN: u16 = 9000;

/// Returns a policy that allows egress from the pods of a local pod's namespace to these ports.
fn outwards(size: Size, local: u32, ports: &[u16]) -> NetworkPolicy {
    let net = "203.0.113.0/24".parse().expect("a network");
    NetworkPolicy {
        key: cluster::key(size.local_namespace(local), "outwards"),
        selector: matching(&[]),
        ingress: None,
        egress: Some(vec![PolicyRule {
            peers: vec![Peer::Block(IpBlock::new(net, []).expect("a block"))],
            ports: ports.iter().map(|port| tcp(*port, *port)).collect(),
        }]),
        refused: false,
    }
}

/// Returns a cluster in which the first two local pods, which different workers own, may connect to one port outside.
fn policed(size: Size) -> (World, [Client; WORKERS as usize]) {
    let mut world = World::of(size);
    let both = [0, 1].map(|local| outwards(size, local, &[OPEN]).into());
    let changes = world.apply(both);
    world.record(&changes);
    let mut local = (0..size.pods).filter(|n| size.is_local(*n));
    let clients = std::array::from_fn(|n| {
        let (id, mac, worker) = cluster::attached_as(n as u16);
        Client {
            id,
            ip: local
                .next()
                .map(|pod| Ip::from(cluster::address(pod)))
                .expect("a local pod"),
            mac,
            worker,
        }
    });
    (world, clients)
}

fn of_policy(criterion: &mut Criterion, report: &mut Report) {
    for (name, size) in policy::SIZES {
        let clients = RefCell::new(strangers());
        let make = || {
            let (world, locals) = policed(size);
            *clients.borrow_mut() = locals;
            Node::new(world, &locals)
        };
        // Each packet opens a new connection.
        let mut number = 0u32;
        let mut ask = |ports: [u16; 2]| {
            number += 1;
            let to = Ip::from_v4([203, 0, 113, (number >> 15) as u8]);
            let clients = clients.borrow();
            [0, 1].map(|n: usize| clients[n].syn(to, (number & 0x7fff) as u16 + 1024, ports[n]))
        };
        let remote = size.pods - 1;
        calls(criterion, report, ("visible/one policy", name), make, |node, number| {
            let port = OPEN + 1 + (number % 2) as u16;
            let event = policy::put(outwards(size, 0, &[OPEN, port]));
            let (answered, left) = node.follow(event, &ask([port, OPEN]));
            assert!(left.iter().any(|p| p.dport == port), "{left:?}");
            answered
        });
        calls(
            criterion,
            report,
            ("visible/one pod added or gone", name),
            make,
            |node, number| {
                let new = Pod {
                    ips: [cluster::address(size.pods + 2)].into(),
                    ..pod(size, size.pods + 2, &cluster::app(remote))
                };
                let event = if number % 2 == 1 {
                    policy::put(new)
                } else {
                    policy::delete(&new.into())
                };
                node.follow(event, &ask([OPEN; 2])).0
            },
        );
        calls(criterion, report, ("visible/one label", name), make, |node, number| {
            let (id, selected) = policy::SELECTED;
            let own = cluster::app(id);
            let label = if number % 2 == 1 { selected } else { &own };
            let event = policy::put(policy::relabelled(size, id, label));
            node.follow(event, &ask([OPEN; 2])).0
        });
    }
}

pub fn run(criterion: &mut Criterion, report: &mut Report) {
    endpoint(criterion, report);
    of_policy(criterion, report);
}
