//! A naive evaluator of policies, written from the API documentation alone. `oracle` compares the compiled tables with
//! it.

use super::*;
use heddle_model::{ClusterNetworkPolicy, ClusterPeer, RuleAction, Tier};

/// Returns true if this policy allows the connection in this direction. `None`: it does not select the pod for it.
fn one_policy(
    cluster: &Cluster,
    policy: &NetworkPolicy,
    pod: &Pod,
    direction: Direction,
    peer: IpAddr,
    (proto, port): (Proto, u16),
) -> Option<bool> {
    // "podSelector selects the pods to which this NetworkPolicy object applies", in its namespace.
    let selects = pod.labels.is_unreadable() || policy.selector.matches(&pod.labels);
    if policy.key.namespace != pod.key.namespace || !selects {
        return None;
    }
    let rules = match direction {
        Direction::Ingress => policy.ingress.as_ref()?,
        Direction::Egress => policy.egress.as_ref()?,
    };
    let peer_pod = cluster.pod_at(peer);
    let destination = match direction {
        Direction::Ingress => Some(pod),
        Direction::Egress => peer_pod.map(|p| &**p),
    };
    // "matches traffic if it matches at least one of the peers and at least one of the ports"; an empty list is all.
    let allowed = rules.iter().any(|rule| {
        let peer_matches = rule.peers.is_empty()
            || rule.peers.iter().any(|p| match p {
                Peer::Block(block) => block.contains(peer),
                Peer::Pods { namespaces, pods } => peer_pod.is_some_and(|other| {
                    let namespace = match namespaces {
                        None => other.key.namespace == policy.key.namespace,
                        Some(selector) => selector.matches(&cluster.namespace_labels(&other.key.namespace)),
                    };
                    namespace && pods.matches(&other.labels)
                }),
            });
        peer_matches && ports_match(&rule.ports, destination, (proto, port))
    });
    Some(allowed)
}

fn ports_match(ports: &[PolicyPort], destination: Option<&Pod>, (proto, port): (Proto, u16)) -> bool {
    ports.is_empty()
        || ports.iter().any(|p| {
            Proto(p.protocol.number()) == proto
                && match &p.ports {
                    PolicyPorts::Any => true,
                    PolicyPorts::Range(range) => range.numbers().contains(&port),
                    PolicyPorts::Name(name) => {
                        destination.is_some_and(|d| d.named_ports(name, p.protocol).any(|n| n.get() == port))
                    }
                }
        })
}

/// Returns the action of the first matching rule of a tier: "policies with lower priority values ... are checked before policies with higher priority values in the same tier"; "a
/// rule that appears at the top ... would take the highest precedence". `None`: no rule of the tier matches.
fn one_tier(
    cluster: &Cluster,
    tier: Tier,
    pod: &Pod,
    direction: Direction,
    peer: IpAddr,
    to: (Proto, u16),
) -> Option<RuleAction> {
    let namespace = cluster.namespace_labels(&pod.key.namespace);
    // Labels that cannot be read match in whatever denies, and in nothing else that has requirements.
    let fits = |selector: &LabelSelector, labels: &Labels, denies: bool| match labels.is_unreadable() {
        true => denies || selector.is_everything(),
        false => selector.matches(labels),
    };
    let selects = |p: &ClusterNetworkPolicy, denies: bool| {
        fits(&p.subject.namespaces, &namespace, denies) && fits(&p.subject.pods, &pod.labels, denies)
    };
    let mut policies: Vec<_> = cluster.cluster_policies().filter(|p| p.tier == tier).collect();
    policies.sort_by_key(|p| (p.priority, Arc::clone(&p.name)));
    let peer_pod = cluster.pod_at(peer);
    let destination = match direction {
        Direction::Ingress => Some(pod),
        Direction::Egress => peer_pod.map(|p| &**p),
    };
    let rules = policies.into_iter().flat_map(|p| {
        let rules = match direction {
            Direction::Ingress => &p.ingress,
            Direction::Egress => &p.egress,
        };
        rules.iter().filter(|rule| selects(p, rule.action == RuleAction::Deny))
    });
    let peer_matches = |p: &ClusterPeer, denies: bool| match p {
        ClusterPeer::Pods(subject) => peer_pod.is_some_and(|other| {
            let namespace = cluster.namespace_labels(&other.key.namespace);
            fits(&subject.namespaces, &namespace, denies) && fits(&subject.pods, &other.labels, denies)
        }),
        ClusterPeer::Nodes(selector) => {
            peer_pod.is_none()
                && cluster
                    .node_at(peer)
                    .is_some_and(|node| fits(selector, &node.labels, denies))
        }
        ClusterPeer::Network(net) => net.contains(&peer),
    };
    let mut matching = rules.filter(|rule| {
        let denies = rule.action == RuleAction::Deny;
        rule.peers.iter().any(|peer| peer_matches(peer, denies)) && ports_match(&rule.ports, destination, to)
    });
    matching.next().map(|rule| rule.action)
}

/// Returns true if all policies together allow the connection: a pod is "isolated if any policy selects it for the
/// direction; then allowed is the union of what they allow".
pub(super) fn is_allowed(world: &World, pod: &Pod, direction: Direction, peer: IpAddr, to: (Proto, u16)) -> bool {
    let cluster = &world.cluster;
    // "Traffic to and from the node where a Pod is running is always allowed, regardless of the IP address of the Pod or the
    // node."
    let in_status = world.facts.node.as_ref().is_some_and(|node| node.has_address(peer));
    let own_node = in_status || world.local_addresses.contains(&peer);
    if own_node {
        return true;
    }
    // "A Pod connecting to a Service IP that the service proxy load-balances back to the same Pod is subject to
    // ClusterNetworkPolicy"; of NetworkPolicies, "a pod cannot block access to itself". That answer comes before the Baseline
    // tier.
    let is_itself = pod.ips.contains(&peer);
    let verdicts: Vec<bool> = cluster
        .policies()
        .filter_map(|p| one_policy(cluster, p, pod, direction, peer, to))
        .collect();
    let tier = |tier| one_tier(cluster, tier, pod, direction, peer, to);
    match (tier(Tier::Admin), verdicts.is_empty()) {
        (Some(RuleAction::Accept), _) => true,
        (Some(RuleAction::Deny), _) => false,
        (Some(RuleAction::Pass) | None, false) => is_itself || verdicts.contains(&true),
        (Some(RuleAction::Pass) | None, true) => is_itself || tier(Tier::Baseline) != Some(RuleAction::Deny),
    }
}
