//! Pods, namespaces and policies.

use std::cell::RefCell;
use std::time::Duration;

use criterion::Criterion;
use heddle_model::{Event, NetworkPolicy, Object, ObjectRef, Peer, Pod, PolicyRule};

use crate::cluster::{self, Size, World, app, key, labels, matching, namespace, pod, policy, tcp};
use crate::cold::{self, Case};
use crate::report::{Report, cpu_time, time};

pub const SIZES: [(&str, Size); 3] = [
    (
        "1k",
        Size {
            pods: 1_000,
            policies: 50,
        },
    ),
    (
        "10k",
        Size {
            pods: 10_000,
            policies: 500,
        },
    ),
    (
        "100k",
        Size {
            pods: 100_000,
            policies: 5_000,
        },
    ),
];

/// The required effect of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reaches {
    /// Tables differ.
    Something,
    /// No page was copied, no generation was raised, and there is nothing to publish.
    Nothing,
}

/// A change, and the change that reverts it.
struct Pair {
    case: &'static str,
    there: Event,
    back: Event,
    reaches: Reaches,
}

pub fn put(object: impl Into<Object>) -> Event {
    Event::Upsert {
        origin: "api".into(),
        object: object.into(),
    }
}

pub fn delete(object: &Object) -> Event {
    Event::Delete(ObjectRef::new(object.kind(), object.key()))
}

/// Returns the pair that adds an object and deletes it.
fn comes(case: &'static str, object: impl Into<Object>, reaches: Reaches) -> Pair {
    let object = object.into();
    let back = delete(&object);
    let there = Event::Upsert {
        origin: "api".into(),
        object,
    };
    Pair {
        case,
        there,
        back,
        reaches,
    }
}

fn changes(case: &'static str, there: impl Into<Object>, back: impl Into<Object>, reaches: Reaches) -> Pair {
    let (there, back) = (put(there), put(back));
    Pair {
        case,
        there,
        back,
        reaches,
    }
}

/// Returns a policy that selects a local pod.
fn local_policy(size: Size, port: u16) -> NetworkPolicy {
    policy(size, 0, port)
}

/// Returns a policy for all pods of a local pod's namespace.
fn with_peer(size: Size, name: &str, peer: Peer) -> NetworkPolicy {
    NetworkPolicy {
        key: key(size.local_namespace(3), name),
        selector: matching(&[]),
        ingress: Some(vec![PolicyRule {
            peers: vec![peer],
            ports: vec![tcp(9000, 9000)],
        }]),
        egress: None,
        refused: false,
    }
}

/// A pod of another node, and the value of the label `app` with which policy 5 of a local pod's namespace selects it as
/// a peer.
pub const SELECTED: (u32, &str) = (51, "a5");

/// Returns a pod whose label `app` differs from the one in its name.
pub fn relabelled(size: Size, id: u32, label: &str) -> Pod {
    Pod {
        key: pod(size, id, &app(id)).key,
        ..pod(size, id, label)
    }
}

fn pairs(size: Size) -> Vec<Pair> {
    use Reaches::{Nothing, Something};
    let elsewhere = (1..size.policies)
        .rev()
        .find(|id| {
            !id.is_multiple_of(5)
                && !(0..cluster::LOCAL).any(|n| size.local_namespace(n) == (id * 2 + 1) % size.namespaces())
        })
        .expect("some namespace has no local pod");
    let remote = size.pods - 1;
    let new = |number: u32, app: &str| Pod {
        labels: labels(&[("app", app), ("tier", "web"), ("pod-template-hash", "12345")]),
        ips: [cluster::address(size.pods + number)].into(),
        ..pod(size, size.pods + number, app)
    };
    let beside = |app: &str| Pod {
        key: key(size.local_namespace(0), "new"),
        ..new(1, app)
    };
    let everywhere = |value| Peer::Pods {
        namespaces: Some(matching(&[])),
        pods: matching(&[("app.kubernetes.io/managed-by", value)]),
    };
    vec![
        comes("policy/a pod that policies select as a peer", beside("a0"), Something),
        comes(
            "policy/a pod elsewhere, of a class that there is",
            new(2, &app(remote)),
            Something,
        ),
        changes(
            "policy/a label that policies name",
            relabelled(size, SELECTED.0, SELECTED.1),
            pod(size, SELECTED.0, &app(SELECTED.0)),
            Something,
        ),
        changes(
            "policy/a label that no policy names",
            Pod {
                labels: labels(&[
                    ("app", &app(remote)),
                    ("tier", ["web", "db", "batch"][remote as usize / 5 % 3]),
                    ("app.kubernetes.io/managed-by", "helm"),
                    ("pod-template-hash", "changed"),
                ]),
                ..pod(size, remote, &app(remote))
            },
            pod(size, remote, &app(remote)),
            Nothing,
        ),
        changes("policy/a namespace's label", namespace(7, 31), namespace(7, 7), Nothing),
        changes(
            "policy/a policy of local pods",
            local_policy(size, 81),
            local_policy(size, 80),
            Something,
        ),
        changes(
            "policy/a policy of pods elsewhere",
            policy(size, elsewhere, 81),
            policy(size, elsewhere, 80),
            Nothing,
        ),
        comes(
            "policy/a policy naming a label that all pods have",
            with_peer(size, "all", everywhere("helm")),
            Something,
        ),
        comes(
            "policy/a policy naming all pods",
            with_peer(
                size,
                "everyone",
                Peer::Pods {
                    namespaces: Some(matching(&[])),
                    pods: matching(&[]),
                },
            ),
            Something,
        ),
    ]
}

fn once(world: &mut World, event: Event, reaches: Reaches, case: &str) -> Duration {
    let began = cpu_time();
    let changes = world.cluster.apply(event);
    world.record(&changes);
    let built = world.compiler.rebuild();
    let took = cpu_time() - began;
    match reaches {
        Reaches::Something => assert!(built.changed, "{case}: tables differ"),
        Reaches::Nothing => {
            let did = (built.changed, built.pages_copied, built.raised.len());
            assert_eq!(did, (false, 0, 0), "{case}: changed, pages copied, generations raised");
        }
    }
    took
}

pub fn run(criterion: &mut Criterion, report: &mut Report) {
    for (name, size) in SIZES {
        let case = Case {
            name: "policy/cold",
            size: name,
            whose: "",
        };
        let objects = || cluster::objects(size).collect();
        cold::run(criterion, report, &case, objects, |world| world.attach(size));
        let mut world = None;
        for pair in pairs(size) {
            let mut forth = false;
            time(criterion, report, (pair.case, name), || {
                let world = world.get_or_insert_with(|| World::of(size));
                forth = !forth;
                let event = if forth { pair.there.clone() } else { pair.back.clone() };
                once(world, event, pair.reaches, pair.case)
            });
            if forth && let Some(world) = &mut world {
                once(world, pair.back, pair.reaches, pair.case);
            }
        }
        let memory = RefCell::default();
        criterion.bench_function(&format!("policy/memory/{name}"), |b| {
            let mut world = None;
            let counted = allocation_counter::measure(|| world = Some(World::of(size)));
            *memory.borrow_mut() = Some(counted.bytes_current);
            b.iter(|| world.as_ref().map(|world| world.compiler.identity_count()));
        });
        if let Some(bytes) = memory.into_inner() {
            report.add(
                "policy/memory of model and tables",
                format!("{:.1} MB", bytes as f64 / 1e6),
            );
        }
    }
}
