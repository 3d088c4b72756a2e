//! Which pairs of pods would change if objects were other than they are.
//!
//! Each pair is asked about every port: ports between two that some policy or the destination pod names are alike, so
//! one of each stretch is asked about; and about an echo request. Pairs that no changed policy selects are not asked.
//! What lies behind Services is not looked at: they send to these same pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_model::{Cluster, ObjectKey, Pod, PolicyPort, PolicyPorts};
use heddle_tables::Direction;
use serde::Serialize;

use super::cluster_tables::ClusterTables;
use super::explain::transport;
use super::path;
use super::policy_selection::{has_rules, isolates};
use super::probe::{Transport, Verdict};
use super::resolve::ResolvedProbe;

/// Ports that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Stretch {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Stretch {
    const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };
}

/// Connections with which something else would happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `namespace/name` of the source pod.
    pub from: String,
    /// `namespace/name` of the destination pod.
    pub to: String,
    /// 4 or 6.
    pub family: u8,
    /// The protocol.
    pub protocol: &'static str,
    /// The ports; none for echo requests.
    pub ports: Option<Stretch>,
    /// The verdict now.
    pub before: Verdict,
    /// The rule that decides now.
    pub decided_before: String,
    /// The verdict after the change.
    pub after: Verdict,
    /// The rule that decides after the change.
    pub decided_after: String,
    /// The two have no other family in common, so there is no need to name it.
    #[serde(skip)]
    pub only_family: bool,
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => Ok(()),
            Self { first, last } if first == last => write!(f, "/{first}"),
            Self { first, last } => write!(f, "/{first}-{last}"),
        }
    }
}

/// Compares two worlds, pair by pair of the pods that are in both.
pub fn differences(now: &mut ClusterTables, then: &mut ClusterTables) -> Vec<Difference> {
    let concern = Concern::between(now.cluster(), then.cluster());
    let pods = both(now.cluster(), then.cluster());
    let stretches = Cuts::of(&pods, [now.cluster(), then.cluster()]);
    let mut found = Vec::new();
    for from in &pods {
        for to in pods.iter().filter(|to| to.key != from.key) {
            if !concern.reaches(&from.key, Direction::Egress) && !concern.reaches(&to.key, Direction::Ingress) {
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
                    pair.compare(now, then, &stretches, &mut found);
                }
            }
        }
    }
    found
}

/// The pods that have the same addresses on the same node in both.
fn both(now: &Cluster, then: &Cluster) -> Vec<Arc<Pod>> {
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

/// Whom the difference between two clusters can concern.
enum Concern {
    Everybody,
    /// The pods that changed policies select, by direction.
    Selected(BTreeSet<(ObjectKey, Direction)>),
}

impl Concern {
    fn between(now: &Cluster, then: &Cluster) -> Self {
        let same_others = now.nodes().eq(then.nodes())
            && now.namespaces().eq(then.namespaces())
            && now.pods().eq(then.pods())
            && now.services().eq(then.services())
            && now.slices().eq(then.slices())
            && now.service_cidrs().eq(then.service_cidrs());
        if !same_others {
            return Self::Everybody;
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

    fn reaches(&self, pod: &ObjectKey, direction: Direction) -> bool {
        match self {
            Self::Everybody => true,
            Self::Selected(selected) => selected.contains(&(pod.clone(), direction)),
        }
    }
}

/// Where something may change between two neighbouring ports: the first port of each stretch, by protocol.
type Starts = BTreeSet<(Transport, u16)>;

/// The policies of each pod and direction.
struct Cuts(BTreeMap<(ObjectKey, Direction), Starts>);

impl Cuts {
    fn of(pods: &[Arc<Pod>], clusters: [&Cluster; 2]) -> Self {
        let mut cuts = BTreeMap::new();
        for pod in pods {
            for direction in Direction::BOTH {
                let mut starts = Starts::new();
                for cluster in clusters {
                    // The pod as this cluster has it: its labels and ports may differ.
                    if let Some(pod) = cluster.pod(&pod.key) {
                        add_policies(cluster, pod, direction, &mut starts);
                        if direction == Direction::Ingress {
                            for port in &pod.ports {
                                let number = port.number.get();
                                add(transport(port.protocol), number, number, &mut starts);
                            }
                        }
                    }
                }
                cuts.insert((pod.key.clone(), direction), starts);
            }
        }
        Self(cuts)
    }

    /// The stretches of a pair, in order.
    fn between(&self, from: &ObjectKey, to: &ObjectKey, transport: Transport) -> Vec<Stretch> {
        let of = |pod: &ObjectKey, direction| self.0.get(&(pod.clone(), direction)).into_iter().flatten();
        let mut starts: BTreeSet<u16> = of(from, Direction::Egress)
            .chain(of(to, Direction::Ingress))
            .filter(|(of, _)| *of == transport)
            .map(|(_, port)| *port)
            .collect();
        starts.insert(1);
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let stretches = starts.iter().zip(ends);
        stretches.map(|(&first, last)| Stretch { first, last }).collect()
    }
}

fn add(transport: Transport, first: u16, last: u16, starts: &mut Starts) {
    starts.insert((transport, first));
    starts.extend(last.checked_add(1).map(|next| (transport, next)));
}

fn add_policies(cluster: &Cluster, pod: &Pod, direction: Direction, starts: &mut Starts) {
    let mut add_port = |port: &PolicyPort| {
        if let PolicyPorts::Range(range) = &port.ports {
            add(
                transport(port.protocol),
                range.first().get(),
                range.last().get(),
                starts,
            );
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

/// Two pods, by addresses of one family.
struct Pair<'a> {
    from: &'a Pod,
    to: &'a Pod,
    ends: (IpAddr, IpAddr),
    only_family: bool,
}

impl Pair<'_> {
    fn compare(&self, now: &mut ClusterTables, then: &mut ClusterTables, cuts: &Cuts, found: &mut Vec<Difference>) {
        let v4 = self.ends.0.is_ipv4();
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            for stretch in cuts.between(&self.from.key, &self.to.key, transport) {
                let Some(difference) = self.ask(now, then, transport, Some(stretch)) else {
                    continue;
                };
                match found.last_mut() {
                    Some(last) if difference.continues(last) => {
                        last.ports = last.ports.map(|ports| Stretch {
                            last: stretch.last,
                            ..ports
                        });
                    }
                    _ => found.push(difference),
                }
            }
        }
        let echo = if v4 { Transport::Icmp } else { Transport::Icmpv6 };
        found.extend(self.ask(now, then, echo, None));
    }

    fn ask(
        &self,
        now: &mut ClusterTables,
        then: &mut ClusterTables,
        transport: Transport,
        ports: Option<Stretch>,
    ) -> Option<Difference> {
        let asked = ResolvedProbe {
            from: self.ends.0,
            to: self.ends.1,
            proto: transport.proto(),
            port: ports.map_or(0, |ports| ports.first),
            entry: self.from.node.as_deref().unwrap_or_default().to_owned(),
        };
        let (before, after) = (path::walk(now, &asked, None), path::walk(then, &asked, None));
        (before.verdict != after.verdict).then(|| Difference {
            from: self.from.key.to_string(),
            to: self.to.key.to_string(),
            family: if self.ends.0.is_ipv4() { 4 } else { 6 },
            protocol: transport.as_str(),
            ports,
            before: before.verdict,
            decided_before: before.why(),
            after: after.verdict,
            decided_after: after.why(),
            only_family: self.only_family,
        })
    }
}

impl Difference {
    /// Returns true if the other difference is the same for the ports that follow.
    fn continues(&self, last: &Self) -> bool {
        let next = |last: Option<Stretch>, this: Option<Stretch>| match (last, this) {
            (Some(last), Some(this)) => last.last.checked_add(1) == Some(this.first),
            _ => false,
        };
        next(last.ports, self.ports)
            && Self {
                ports: last.ports,
                ..self.clone()
            } == *last
    }
}
