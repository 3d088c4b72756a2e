//! The pairs of pods whose traffic changes when objects are added, replaced or removed.
//!
//! Each pair is compared for every port and for an echo request. The ports that policies and the destination pod name
//! divide all ports into ranges. All ports of a range have the same verdict, so only the first one is evaluated. Pairs
//! that no changed policy selects are skipped. Services are not compared, because they lead to the same pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use heddle_model::{Cluster, ObjectKey, Pod, PolicyPort, PolicyPorts};
use heddle_tables::Direction;
use serde::Serialize;

use super::cluster_tables::ClusterTables;
use super::path;
use super::policy_selection::{has_rules, isolates};
use super::probe::{Transport, Verdict};
use super::resolve::ResolvedProbe;

/// A range of ports with the same verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PortSpan {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortSpan {
    /// All ports.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };
}

/// Connections of two pods whose verdict changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `namespace/name` of the source pod.
    pub from: String,
    /// `namespace/name` of the destination pod.
    pub to: String,
    /// The address family: 4 or 6.
    pub family: u8,
    /// The protocol.
    pub protocol: &'static str,
    /// The ports; `None` for echo requests.
    pub ports: Option<PortSpan>,
    /// The verdict now.
    pub before: Verdict,
    /// The rule that decides now.
    pub decided_before: String,
    /// The verdict after the change.
    pub after: Verdict,
    /// The rule that decides after the change.
    pub decided_after: String,
    /// True if the pair has only this family, because one of the two pods has a single address. A table need not name
    /// the family then.
    #[serde(skip)]
    pub only_family: bool,
}

/// Compares two clusters, pair by pair of the pods that are in both.
pub fn differences(now: &mut ClusterTables, then: &mut ClusterTables) -> Vec<Difference> {
    let reach = ChangeReach::between(now.cluster(), then.cluster());
    let pods = common_pods(now.cluster(), then.cluster());
    let boundaries = PortBoundaries::of(&pods, [now.cluster(), then.cluster()]);
    let mut found = Vec::new();
    for from in &pods {
        for to in pods.iter().filter(|to| to.key != from.key) {
            if !reach.contains(&from.key, Direction::Egress) && !reach.contains(&to.key, Direction::Ingress) {
                continue;
            }
            for source in from.own_ips() {
                let same = |ip: &&IpAddr| ip.is_ipv4() == source.is_ipv4();
                for destination in to.own_ips().iter().filter(same) {
                    let pair = Pair {
                        from,
                        to,
                        ends: (*source, *destination),
                        only_family: from.own_ips().len() == 1 || to.own_ips().len() == 1,
                    };
                    pair.compare(now, then, &boundaries, &mut found);
                }
            }
        }
    }
    found
}

/// Returns the pods that have the same addresses on the same node in both clusters.
fn common_pods(now: &Cluster, then: &Cluster) -> Vec<Arc<Pod>> {
    let stays = |pod: &&Arc<Pod>| {
        let other = then.pod(&pod.key);
        pod.node.is_some()
            && other.is_some_and(|other| other.node == pod.node && other.own_ips() == pod.own_ips())
            && pod
                .own_ips()
                .iter()
                .all(|ip| now.pod_at(*ip).is_some_and(|at| at.key == pod.key))
    };
    now.pods().filter(stays).cloned().collect()
}

/// The pods whose traffic the difference between two clusters can affect.
enum ChangeReach {
    /// All pods, because objects other than policies differ.
    All,
    /// The pods that changed policies select, by direction.
    Selected(BTreeSet<(ObjectKey, Direction)>),
}

impl ChangeReach {
    /// Compares the objects of two clusters.
    fn between(now: &Cluster, then: &Cluster) -> Self {
        let same_others = now.nodes().eq(then.nodes())
            && now.namespaces().eq(then.namespaces())
            && now.pods().eq(then.pods())
            && now.services().eq(then.services())
            && now.slices().eq(then.slices())
            && now.service_cidrs().eq(then.service_cidrs());
        if !same_others {
            return Self::All;
        }
        let mut selected = BTreeSet::new();
        for (one, other) in [(now, then), (then, now)] {
            let network = one
                .policies()
                .filter(|policy| other.policy(&policy.key) != Some(*policy));
            let network: Vec<_> = network.collect();
            let administrators = one.cluster_policies();
            let administrators: Vec<_> = administrators
                .filter(|policy| other.cluster_policy(&policy.name) != Some(*policy))
                .collect();
            for pod in one.pods() {
                let labels = one.namespace_labels(&pod.key.namespace);
                for direction in Direction::BOTH {
                    let by_network = network.iter().any(|policy| isolates(policy, pod, direction));
                    let by_administrators = administrators
                        .iter()
                        .any(|policy| has_rules(policy, direction) && policy.subject.matches(&labels, &pod.labels));
                    if by_network || by_administrators {
                        selected.insert((pod.key.clone(), direction));
                    }
                }
            }
        }
        Self::Selected(selected)
    }

    /// Returns true if traffic of the pod in this direction can be affected.
    fn contains(&self, pod: &ObjectKey, direction: Direction) -> bool {
        match self {
            Self::All => true,
            Self::Selected(selected) => selected.contains(&(pod.clone(), direction)),
        }
    }
}

/// The first port of each range of ports with the same verdict, by protocol.
type Starts = BTreeSet<(Transport, u16)>;

/// The ports at which the verdict of a pod and direction may change.
struct PortBoundaries(BTreeMap<(ObjectKey, Direction), Starts>);

impl PortBoundaries {
    /// Collects the boundaries from the policies and ports of the pods in both clusters.
    fn of(pods: &[Arc<Pod>], clusters: [&Cluster; 2]) -> Self {
        let mut cuts = BTreeMap::new();
        for pod in pods {
            for direction in Direction::BOTH {
                let mut starts = Starts::new();
                for cluster in clusters {
                    // The pod of this cluster: its labels and ports may differ.
                    if let Some(pod) = cluster.pod(&pod.key) {
                        add_policies(cluster, pod, direction, &mut starts);
                        if direction == Direction::Ingress {
                            for port in &*pod.ports {
                                let number = port.number.get();
                                add(port.protocol.into(), number, number, &mut starts);
                            }
                        }
                    }
                }
                cuts.insert((pod.key.clone(), direction), starts);
            }
        }
        Self(cuts)
    }

    /// Returns the port ranges of a pair, in order.
    fn between(&self, from: &ObjectKey, to: &ObjectKey, transport: Transport) -> Vec<PortSpan> {
        let of = |pod: &ObjectKey, direction| self.0.get(&(pod.clone(), direction)).into_iter().flatten();
        let mut starts: BTreeSet<u16> = of(from, Direction::Egress)
            .chain(of(to, Direction::Ingress))
            .filter(|(of, _)| *of == transport)
            .map(|(_, port)| *port)
            .collect();
        starts.insert(1);
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let spans = starts.iter().zip(ends);
        spans.map(|(&first, last)| PortSpan { first, last }).collect()
    }
}

/// Adds a range of ports: its first port and the port after its last begin new ranges.
fn add(transport: Transport, first: u16, last: u16, starts: &mut Starts) {
    starts.insert((transport, first));
    starts.extend(last.checked_add(1).map(|next| (transport, next)));
}

/// Adds the port ranges in the rules of all policies that select a pod.
fn add_policies(cluster: &Cluster, pod: &Pod, direction: Direction, starts: &mut Starts) {
    let mut add_port = |port: &PolicyPort| {
        if let PolicyPorts::Range(range) = &port.ports {
            add(port.protocol.into(), range.first().get(), range.last().get(), starts);
        }
    };
    for policy in cluster.policies_in(&pod.key.namespace) {
        if isolates(policy, pod, direction) {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            rules
                .iter()
                .flatten()
                .flat_map(|rule| &rule.ports)
                .for_each(&mut add_port);
        }
    }
    let labels = cluster.namespace_labels(&pod.key.namespace);
    for policy in cluster.cluster_policies() {
        if policy.subject.matches(&labels, &pod.labels) {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            rules.iter().flat_map(|rule| &rule.ports).for_each(&mut add_port);
        }
    }
}

/// Two pods, with an address each of one family.
struct Pair<'a> {
    from: &'a Pod,
    to: &'a Pod,
    ends: (IpAddr, IpAddr),
    only_family: bool,
}

impl Pair<'_> {
    /// Adds the differences of the pair, and joins ranges that differ in the same way.
    fn compare(
        &self,
        now: &mut ClusterTables,
        then: &mut ClusterTables,
        boundaries: &PortBoundaries,
        found: &mut Vec<Difference>,
    ) {
        let v4 = self.ends.0.is_ipv4();
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            for span in boundaries.between(&self.from.key, &self.to.key, transport) {
                let Some(difference) = self.difference(now, then, transport, Some(span)) else {
                    continue;
                };
                match found.last_mut() {
                    Some(last) if difference.continues(last) => {
                        last.ports = last.ports.map(|ports| PortSpan {
                            last: span.last,
                            ..ports
                        });
                    }
                    _ => found.push(difference),
                }
            }
        }
        let echo = if v4 { Transport::Icmp } else { Transport::Icmpv6 };
        found.extend(self.difference(now, then, echo, None));
    }

    /// Evaluates one connection in both clusters. Returns a difference if the verdicts differ.
    fn difference(
        &self,
        now: &mut ClusterTables,
        then: &mut ClusterTables,
        transport: Transport,
        ports: Option<PortSpan>,
    ) -> Option<Difference> {
        let resolved = ResolvedProbe {
            from: self.ends.0,
            to: self.ends.1,
            proto: transport.proto(),
            port: ports.map_or(0, |ports| ports.first),
            entry: self.from.node.as_deref().unwrap_or_default().to_owned(),
        };
        let (before, after) = (path::walk(now, &resolved, None), path::walk(then, &resolved, None));
        (before.verdict != after.verdict).then(|| Difference {
            from: self.from.key.to_string(),
            to: self.to.key.to_string(),
            family: if self.ends.0.is_ipv4() { 4 } else { 6 },
            protocol: transport.as_str(),
            ports,
            before: before.verdict,
            decided_before: before.explanation(),
            after: after.verdict,
            decided_after: after.explanation(),
            only_family: self.only_family,
        })
    }
}

impl Difference {
    /// Returns true if this is the same difference as `last`, for the ports that follow.
    fn continues(&self, last: &Self) -> bool {
        let is_next = |last: Option<PortSpan>, this: Option<PortSpan>| match (last, this) {
            (Some(last), Some(this)) => last.last.checked_add(1) == Some(this.first),
            _ => false,
        };
        is_next(last.ports, self.ports)
            && Self {
                ports: last.ports,
                ..self.clone()
            } == *last
    }
}
