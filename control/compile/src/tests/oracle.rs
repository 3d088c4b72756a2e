//! Compares the compiled tables with the naive evaluator (`evaluator`), over random clusters that change step by step.

use std::collections::BTreeMap;

use super::evaluator::is_allowed;
use super::*;
use heddle_model::{ClusterNetworkPolicy, ClusterPeer, ClusterRule, Operator, PodSubject, RuleAction, Tier};
use heddle_tables::Place;
use proptest::prelude::*;

const PROTOS: [Proto; 4] = [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP];
const PORTS: [u16; 6] = [0, 79, 80, 81, 90, 443];
const OUTSIDE: [&str; 5] = ["10.0.3.3", "10.0.9.9", "1.2.3.4", "192.168.0.2", "fd00:3::1"];

#[derive(Clone, Debug)]
enum Step {
    Pod(u8, Labels, bool, State),
    NoPod(u8),
    Namespace(u8, Labels),
    NoNamespace(u8),
    Policy(u8, u8, LabelSelector, Option<Vec<PolicyRule>>, Option<Vec<PolicyRule>>),
    NoPolicy(u8, u8),
    Cluster(ClusterNetworkPolicy),
    NoCluster(u8),
    /// A node, this one or the other, with these labels and the first or the second of its pod ranges.
    Node(bool, Labels, bool),
    /// The object of this node is deleted. The node goes on.
    NoOwnNode,
    /// The addresses of the node's interfaces, by their places in `OUTSIDE`.
    Hold(Vec<usize>),
    Attach(u8),
    Detach(u8),
    Build,
}

/// The state of a pod of the other node. Pods of this node always run.
#[derive(Clone, Copy, Debug)]
enum State {
    Running,
    /// It has terminated: its addresses belong to no pod.
    Ended,
    /// It uses the host's network: its address is its node's.
    OnTheHost,
}

const PODS: u8 = 6;

fn pod_ips(n: u8) -> [String; 2] {
    // Pods 0 to 2 run on this node.
    let node = if n < 3 { 1 } else { 2 };
    [format!("10.0.{node}.{}", n + 10), format!("fd00:{node}::{:x}", n + 16)]
}

fn some_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(
        prop::sample::select(vec!["a", "b"]),
        prop::sample::select(vec!["0", "1"]),
        0..=2,
    )
    .prop_map(|map| Labels::new(map).unwrap())
}

/// Labels; a tenth of them cannot be read.
fn object_labels() -> impl Strategy<Value = Labels> {
    prop_oneof![9 => some_labels(), 1 => Just(Labels::unreadable())]
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let key = || prop::sample::select(vec!["a", "b"]);
    let value = || prop::sample::select(vec!["0", "1"]);
    let values = (
        prop::sample::select(vec![Operator::In, Operator::NotIn]),
        key(),
        prop::collection::vec(value(), 1..=2),
    )
        .prop_map(|(operator, key, values)| Requirement::new(key, operator, values).unwrap());
    let presence = (
        prop::sample::select(vec![Operator::Exists, Operator::DoesNotExist]),
        key(),
    )
        .prop_map(|(operator, key)| Requirement::new(key, operator, [""; 0]).unwrap());
    prop::collection::vec(prop_oneof![2 => values, 1 => presence], 0..=2).prop_map(LabelSelector::new)
}

fn peer() -> impl Strategy<Value = Peer> {
    let cidrs = vec![
        ("10.0.0.0/16", "10.0.1.0/24"),
        ("10.0.1.0/24", "10.0.1.11/32"),
        ("10.0.2.0/23", "10.0.2.14/31"),
        ("0.0.0.0/0", "10.0.0.0/16"),
        ("0.0.0.0/0", "192.168.0.0/16"),
        ("fd00::/16", "fd00:1::/32"),
        ("::/0", "fd00:3::/32"),
    ];
    let blocks = (prop::sample::select(cidrs), any::<bool>())
        .prop_map(|((cidr, except), holed)| block(cidr, if holed { std::slice::from_ref(&except) } else { &[] }));
    let pods =
        (prop::option::of(selector()), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods });
    prop_oneof![blocks, pods]
}

fn policy_port() -> impl Strategy<Value = PolicyPort> {
    let ports = prop_oneof![
        1 => Just(PolicyPorts::Any),
        3 => (79u16..=82, 0u16..=9).prop_map(|(first, more)| {
            PolicyPorts::Range(PortRange::new(port(first), port(first + more)).unwrap())
        }),
        2 => prop::sample::select(vec!["http", "dns"]).prop_map(|name| PolicyPorts::Name(name.into())),
    ];
    (
        prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
        ports,
    )
        .prop_map(|(protocol, ports)| PolicyPort { protocol, ports })
}

fn rules() -> impl Strategy<Value = Option<Vec<PolicyRule>>> {
    let one = (
        prop::collection::vec(peer(), 0..=2),
        prop::collection::vec(policy_port(), 0..=2),
    )
        .prop_map(|(peers, ports)| PolicyRule { peers, ports });
    prop::option::weighted(0.7, prop::collection::vec(one, 0..=2))
}

fn subject() -> impl Strategy<Value = PodSubject> {
    (selector(), selector()).prop_map(|(namespaces, pods)| PodSubject { namespaces, pods })
}

fn cluster_peer() -> impl Strategy<Value = ClusterPeer> {
    let networks = vec![
        "10.0.0.0/16",
        "10.0.1.11/32",
        "0.0.0.0/0",
        "192.168.0.0/31",
        "fd00:1::/32",
        "::/0",
    ];
    prop_oneof![
        3 => subject().prop_map(ClusterPeer::Pods),
        1 => selector().prop_map(ClusterPeer::Nodes),
        1 => prop::sample::select(networks).prop_map(|net| ClusterPeer::Network(net.parse().unwrap())),
    ]
}

fn cluster_rules() -> impl Strategy<Value = Vec<ClusterRule>> {
    let one = (
        prop::sample::select(vec![RuleAction::Accept, RuleAction::Deny, RuleAction::Pass]),
        prop::collection::vec(cluster_peer(), 0..=2),
        prop::collection::vec(policy_port(), 0..=2),
    )
        .prop_map(|(action, peers, ports)| ClusterRule {
            name: "".into(),
            action,
            peers,
            ports,
        });
    prop::collection::vec(one, 0..=3)
}

fn cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let tier = prop::sample::select(vec![Tier::Admin, Tier::Baseline]);
    (0u8..4, tier, 0u16..3, subject(), cluster_rules(), cluster_rules()).prop_map(
        |(n, tier, priority, subject, ingress, egress)| ClusterNetworkPolicy {
            name: format!("c{n}").into(),
            tier,
            priority,
            subject,
            ingress,
            egress,
            refused: false,
        },
    )
}

fn a_node(here: bool) -> Node {
    if here {
        node("here", "192.168.0.1", "10.0.1.0/24")
    } else {
        node("there", "192.168.0.2", "10.0.2.0/24")
    }
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![6 => Just(State::Running), 1 => Just(State::Ended), 1 => Just(State::OnTheHost)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => cluster_policy().prop_map(Step::Cluster),
        1 => (0u8..4).prop_map(Step::NoCluster),
        1 => (any::<bool>(), object_labels(), any::<bool>()).prop_map(|(here, l, first)| Step::Node(here, l, first)),
        1 => Just(Step::NoOwnNode),
        1 => prop::collection::vec(0..OUTSIDE.len(), 0..=2).prop_map(Step::Hold),
        5 => (0..PODS, object_labels(), any::<bool>(), state()).prop_map(|(n, l, p, s)| Step::Pod(n, l, p, s)),
        1 => (0..PODS).prop_map(Step::NoPod),
        2 => (0u8..2, object_labels()).prop_map(|(n, l)| Step::Namespace(n, l)),
        1 => (0u8..2).prop_map(Step::NoNamespace),
        5 => (0u8..2, 0u8..3, selector(), rules(), rules()).prop_map(|(s, n, sel, i, e)| Step::Policy(s, n, sel, i, e)),
        2 => (0u8..2, 0u8..3).prop_map(|(s, n)| Step::NoPolicy(s, n)),
        3 => (0u8..3).prop_map(Step::Attach),
        1 => (0u8..3).prop_map(Step::Detach),
        8 => Just(Step::Build),
    ]
}

fn pod_key(n: u8) -> ObjectKey {
    ObjectKey::new(format!("n{}", n % 2), format!("p{n}"))
}

fn make_pod(n: u8, its_labels: Labels, other_ports: bool, state: State) -> Pod {
    let ips = pod_ips(n);
    let mut made = pod("n/p", if n < 3 { "here" } else { "there" }, &[&ips[0], &ips[1]], "");
    made.key = pod_key(n);
    made.labels = its_labels;
    let number = if other_ports { 80 } else { 90 };
    made.ports = [
        container_port("http", number, Protocol::Tcp),
        container_port("dns", number, Protocol::Udp),
    ]
    .into();
    match state {
        State::Ended if n >= 3 => made.phase = PodPhase::Succeeded,
        State::OnTheHost if n >= 3 => {
            made.host_network = true;
            made.ips = a_node(false).internal_ips.into();
        }
        State::Running | State::Ended | State::OnTheHost => {}
    }
    made
}

fn apply_step(world: &mut World, step: Step) {
    match step {
        Step::Pod(n, its_labels, other, state) => {
            world.put(make_pod(n, its_labels, other, state));
        }
        Step::NoPod(n) => {
            // A deleted pod that is still attached keeps its last policy, which the oracle does not know.
            world.compiler.detach(EndpointId(u16::from(n) + 2));
            let key = pod_key(n);
            world.delete(Kind::Pod, &key.namespace, &key.name);
        }
        Step::Namespace(n, its_labels) => {
            let name = format!("n{n}");
            let pairs: Vec<_> = its_labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let all = pairs
                .into_iter()
                .chain([(NAMESPACE_NAME_LABEL.to_owned(), name.clone())]);
            let labels = if its_labels.is_unreadable() {
                its_labels
            } else {
                Labels::new(all).unwrap()
            };
            world.put(Namespace {
                name: name.into(),
                labels,
            });
        }
        Step::NoNamespace(n) => {
            world.delete(Kind::Namespace, "", &format!("n{n}"));
        }
        Step::Policy(space, n, selector, ingress, egress) => {
            let key = ObjectKey::new(format!("n{space}"), format!("q{n}"));
            world.put(NetworkPolicy {
                key,
                selector,
                ingress,
                egress,
                refused: false,
            });
        }
        Step::NoPolicy(space, n) => {
            world.delete(Kind::NetworkPolicy, &format!("n{space}"), &format!("q{n}"));
        }
        Step::Cluster(policy) => {
            world.put(policy);
        }
        Step::NoCluster(n) => {
            world.delete(Kind::ClusterNetworkPolicy, "", &format!("c{n}"));
        }
        Step::Node(here, labels, first) => {
            let mut node = Node { labels, ..a_node(here) };
            if !first {
                // A range of addresses that no pod has, or, of this node, one that pods of the other node have.
                node.pod_cidrs = vec![if here { "10.0.2.0/24" } else { "10.0.4.0/24" }.parse().unwrap()];
            }
            world.put(node);
        }
        Step::NoOwnNode => {
            world.delete(Kind::Node, "", "here");
        }
        Step::Hold(places) => {
            world.hold(places.into_iter().map(|at| ip(OUTSIDE[at])));
        }
        Step::Attach(n) => {
            let ips = pod_ips(n).map(|i| ip(&i));
            world
                .compiler
                .attach(attachment(u16::from(n) + 2, Some(&pod_key(n)), &ips));
        }
        Step::Detach(n) => world.compiler.detach(EndpointId(u16::from(n) + 2)),
        Step::Build => {}
    }
}

/// Endpoint, direction, peer, protocol and port.
type Asked = (u16, Direction, IpAddr, Proto, u16);
/// The verdict and the endpoint's generation, for each question.
type Verdicts = BTreeMap<Asked, (bool, u32)>;

/// Returns every verdict of every local endpoint.
fn verdicts(snapshot: &Snapshot) -> Verdicts {
    let mut all = BTreeMap::new();
    let pods: Vec<String> = (0..PODS).flat_map(pod_ips).collect();
    let peers = pods.iter().map(String::as_str).chain(OUTSIDE).chain(["192.168.0.1"]);
    for peer in peers {
        for endpoint in snapshot.endpoints().filter(|e| e.id.is_pod()) {
            for direction in Direction::BOTH {
                for proto in PROTOS {
                    for port in PORTS {
                        let info = snapshot.address(Ip::from(ip(peer)));
                        let verdict = endpoint.judge(direction, info, proto, port).is_allowed();
                        let asked = (endpoint.id.0, direction, ip(peer), proto, port);
                        all.insert(asked, (verdict, endpoint.generation.0));
                    }
                }
            }
        }
    }
    all
}

fn check(world: &mut World, before: &Arc<Snapshot>) -> Result<Arc<Snapshot>, TestCaseError> {
    let snapshot = world.build().snapshot;
    let (old, new) = (verdicts(before), verdicts(&snapshot));
    for (asked, (allowed, generation)) in &new {
        let (id, direction, peer, proto, port) = *asked;
        let pod = world.cluster.pod(&pod_key(id as u8 - 2));
        // A local pod without an attachment has no address yet, whatever its status contains.
        let unattached = (0..3u16)
            .any(|n| pod_ips(n as u8).iter().any(|i| ip(i) == peer) && snapshot.endpoint(EndpointId(n + 2)).is_none());
        if let (Some(pod), false) = (pod, unattached) {
            let want = is_allowed(world, pod, direction, peer, (proto, port));
            prop_assert_eq!(*allowed, want, "{} {} {} {} {}", pod.key, direction, peer, proto, port);
        } else if pod.is_none() {
            prop_assert!(!allowed, "an endpoint whose pod is not known is closed");
        }
        if let Some((true, earlier)) = old.get(asked)
            && !allowed
        {
            // The host's generation is one of the two of its flows.
            let of_host = |snapshot: &Snapshot| snapshot.endpoint(EndpointId::HOST).map(|host| host.generation);
            let was_host = before.address(Ip::from(peer)).place == Place::Host;
            prop_assert!(
                generation != earlier || (was_host && of_host(&snapshot) != of_host(before)),
                "{:?} is allowed no more, and no generation tells",
                asked
            );
        }
    }
    Ok(snapshot)
}

/// Compiles the same cluster and attachments from nothing, policies first.
fn anew(world: &World) -> World {
    let mut fresh = World::new();
    let from = &world.cluster;
    for object in from.cluster_policies() {
        fresh.put(ClusterNetworkPolicy::clone(object));
    }
    for object in from.policies() {
        fresh.put(NetworkPolicy::clone(object));
    }
    for object in from.pods() {
        fresh.put(Pod::clone(object));
    }
    for object in from.nodes() {
        fresh.put(Node::clone(object));
    }
    for object in from.namespaces() {
        fresh.put(Namespace::clone(object));
    }
    // The node's facts outlive its object.
    fresh.facts.clone_from(&world.facts);
    fresh.record(&Changes::default());
    fresh.hold(world.local_addresses.iter().copied());
    for attached in world.compiler.attachments() {
        fresh.compiler.attach(attached.clone());
    }
    fresh
}

proptest! {
    // Each case compares thousands of verdicts, so there are fewer cases than usual.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 3, ..ProptestConfig::default() })]

    #[test]
    fn verdicts_agree_with_the_documentation(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        world.put(a_node(true)).put(a_node(false));
        let mut snapshot = world.build().snapshot;
        for step in steps {
            let build = matches!(step, Step::Build);
            apply_step(&mut world, step);
            if build {
                snapshot = check(&mut world, &snapshot)?;
            }
        }
        check(&mut world, &snapshot)?;
    }

    #[test]
    fn tables_depend_on_the_objects_only_and_not_on_their_history(steps in prop::collection::vec(step(), 1..40)) {
        let (mut one_by_one, mut at_once) = (World::new(), World::new());
        for world in [&mut one_by_one, &mut at_once] {
            world.put(a_node(true)).put(a_node(false));
        }
        for step in steps {
            apply_step(&mut one_by_one, step.clone());
            one_by_one.build();
            apply_step(&mut at_once, step);
        }
        let strip = |world: &mut World| -> BTreeMap<_, _> {
            verdicts(&world.build().snapshot).into_iter().map(|(asked, (verdict, _))| (asked, verdict)).collect()
        };
        let mut fresh = anew(&one_by_one);
        let reached = strip(&mut one_by_one);
        prop_assert_eq!(&reached, &strip(&mut at_once));
        prop_assert_eq!(reached, strip(&mut fresh), "compiled from nothing");
        let sizes = |world: &World| (world.compiler.identity_count(), world.compiler.policy_count());
        prop_assert_eq!(sizes(&one_by_one), sizes(&at_once));
        prop_assert_eq!(sizes(&one_by_one), sizes(&fresh));
        let attached: BTreeSet<_> = one_by_one.compiler.attachments().map(|a| a.id).collect();
        prop_assert_eq!(attached.len(), one_by_one.build().snapshot.endpoints().count() - 2);
    }
}
