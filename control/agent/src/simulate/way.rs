//! The way of one connection: egress and Service at the node where it enters, ingress at the destination's.

use std::net::IpAddr;

use heddle_engine::{Decision, Query, Source, decide};
use heddle_flow::Origin;
use heddle_model::{Cluster, ObjectKey, Pod};
use heddle_tables::{Place, RuleNo, ServiceLookup, Snapshot};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};

use super::probe::{Answer, End, Probe, ProbeError, Verdict};
use super::world::World;

/// The source port of a probe, and the identifier of its echo request.
const SOURCE_PORT: u16 = 49_152;

/// A probe whose ends are addresses.
#[derive(Clone, Debug)]
struct Asked {
    from: IpAddr,
    to: IpAddr,
    proto: Proto,
    port: u16,
    entry: String,
}

/// Answers a probe. `node`: where packets enter for which the probe does not say it.
///
/// # Errors
/// An end is not known, or nothing says where the packet enters.
pub fn ask(world: &mut World, probe: &Probe, node: Option<&str>) -> Result<Answer, ProbeError> {
    let asked = resolve(world.cluster(), probe, node)?;
    let mut seen = Seen::default();
    let outcome = walk(world, &asked, &mut seen);
    let (verdict, policy) = match outcome {
        Outcome::Pass => (Verdict::Allow, seen.allowed()),
        Outcome::Reject(why) => (Verdict::Reject, why),
        Outcome::Drop(why) => (Verdict::Deny, why),
    };
    Ok(Answer {
        id: probe.id.clone(),
        verdict,
        policy,
        backends: seen.backends,
        masquerade: seen.masquerade,
    })
}

enum Outcome {
    Pass,
    Reject(String),
    Drop(String),
}

/// What was seen on the way.
#[derive(Default)]
struct Seen {
    backends: Vec<String>,
    masquerade: bool,
    /// What allowed it, in order.
    reasons: Vec<String>,
}

impl Seen {
    fn allowed(&self) -> String {
        if self.reasons.is_empty() {
            return "no policy selects either side".to_owned();
        }
        self.reasons.join("; ")
    }

    fn note(&mut self, snapshot: &Snapshot, rule: RuleNo) {
        if rule == RuleNo::NO_POLICY {
            return;
        }
        let reason = name(snapshot, rule);
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}

/// What a rule number stands for.
fn name(snapshot: &Snapshot, rule: RuleNo) -> String {
    match snapshot.reason(rule) {
        Some(reason) => reason.to_string(),
        None => format!("rule {}", rule.0),
    }
}

fn walk(world: &mut World, asked: &Asked, seen: &mut Seen) -> Outcome {
    if asked.from == asked.to {
        // It never leaves the pod, or the node.
        seen.reasons.push(heddle_tables::Decision::Itself.to_string());
        return Outcome::Pass;
    }
    let next = match at(world, &asked.entry, asked.from, asked.to, asked, asked.port, seen) {
        Ok(next) => next,
        Err(outcome) => return outcome,
    };
    if let Some(next) = next {
        let port = next.port;
        // The destination's node has the last word on what it takes in.
        if let Err(outcome) = at(world, &next.node, asked.from, next.to, asked, port, seen) {
            return outcome;
        }
    }
    Outcome::Pass
}

/// Another node has to be asked.
struct Hop {
    node: String,
    to: IpAddr,
    port: u16,
}

fn at(
    world: &mut World,
    node: &str,
    from: IpAddr,
    to: IpAddr,
    asked: &Asked,
    port: u16,
    seen: &mut Seen,
) -> Result<Option<Hop>, Outcome> {
    let plane = world.plane(node);
    let snapshot = plane.snapshot();
    let source = snapshot.address(Ip::from(from));
    let query = Query {
        origin: match source.place {
            Place::Local(pod) => Origin::pod(pod),
            _ => Origin::HOST,
        },
        tuple: Tuple {
            src: Ip::from(from),
            dst: Ip::from(to),
            sport: SOURCE_PORT,
            dport: port,
        },
        proto: asked.proto,
    };
    if query.origin == Origin::HOST && is_the_kernels(snapshot, &query) {
        seen.reasons
            .push("what a node sends elsewhere is not judged there".to_owned());
        return Ok(hop(world.cluster(), node, to, port));
    }
    if let ServiceLookup::Frontend(frontend) = snapshot.frontend(query.tuple.dst, query.proto, port) {
        seen.backends = frontend
            .backends
            .list()
            .iter()
            .map(|b| b.socket().to_string())
            .collect();
        seen.backends.sort();
    }
    let passage = match decide(snapshot, &query) {
        Decision::Pass(passage) => passage,
        Decision::Gateway => return Ok(None),
        Decision::Reject => return Err(Outcome::Reject(rejected(snapshot, &query))),
        Decision::Drop(denial) => {
            let why = if denial.rule == RuleNo::NO_POLICY {
                denial.reason.as_str().to_owned()
            } else {
                name(snapshot, denial.rule)
            };
            return Err(Outcome::Drop(why));
        }
    };
    seen.note(snapshot, passage.egress_rule);
    seen.note(snapshot, passage.ingress_rule);
    // As kube-proxy with a cluster CIDR: true for what is no pod's, even where the source is the node's already.
    seen.masquerade |= passage.source != Source::Kept || passage.target.service && !source.place.is_pod();
    let target = passage.target;
    Ok(hop(world.cluster(), node, target.dst.to_std(), target.dport))
}

/// Whether a packet that no pod of the node sent is for no pod of the node and no Service either: there is nothing to
/// judge here. Whether it reaches another node is the kernel's routing.
fn is_the_kernels(snapshot: &Snapshot, query: &Query) -> bool {
    let dst = query.tuple.dst;
    let elsewhere = matches!(
        snapshot.address(dst).place,
        Place::Host | Place::RemoteHost(_) | Place::Node(_) | Place::Outside
    );
    let service = snapshot.frontend(dst, query.proto, query.tuple.dport);
    elsewhere && service == ServiceLookup::NotAService && !snapshot.node().in_service_range(dst)
}

/// The node of the pod that has an address, if that is another one.
fn hop(cluster: &Cluster, node: &str, to: IpAddr, port: u16) -> Option<Hop> {
    let there = cluster.pod_at(to)?.node.as_deref().filter(|there| *there != node)?;
    Some(Hop {
        node: there.to_owned(),
        to,
        port,
    })
}

fn rejected(snapshot: &Snapshot, query: &Query) -> String {
    match snapshot.frontend(query.tuple.dst, query.proto, query.tuple.dport) {
        ServiceLookup::Frontend(frontend) => format!("Service {} has no endpoints", frontend.name),
        _ => "a Service has this address, but not this port and protocol".to_owned(),
    }
}

fn resolve(cluster: &Cluster, probe: &Probe, node: Option<&str>) -> Result<Asked, ProbeError> {
    let (from, to) = (address(cluster, &probe.src)?, address(cluster, &probe.dst)?);
    if from.is_ipv4() != to.is_ipv4() {
        return Err(ProbeError::Mixed { from, to });
    }
    let port = match probe.port {
        _ if !probe.protocol.has_ports() => 0,
        Some(port) if port > 0 => port,
        _ => return Err(ProbeError::NoPort(probe.protocol)),
    };
    let of_pod = |end: &End, ip: IpAddr| -> Option<String> {
        // A pod of the host's network has no address by which it could be found.
        let pod = match end {
            End::Pod { pod, .. } => pod_named(cluster, pod),
            End::Node { .. } | End::Ip { .. } => cluster.pod_at(ip).map(|pod| &**pod),
        };
        pod?.node.as_deref().map(str::to_owned)
    };
    let of_node = |end: &End| match end {
        End::Node { node, .. } => Some(node.clone()),
        End::Pod { .. } | End::Ip { .. } => None,
    };
    let named = probe.node.as_deref().or(node).map(str::to_owned);
    let entry = named
        .or_else(|| of_pod(&probe.src, from))
        .or_else(|| of_pod(&probe.dst, to))
        .or_else(|| of_node(&probe.src))
        .or_else(|| of_node(&probe.dst));
    Ok(Asked {
        from,
        to,
        proto: probe.protocol.proto(),
        port,
        entry: entry.ok_or(ProbeError::NoEntry)?,
    })
}

fn pod_named<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a Pod> {
    let (namespace, name) = name.split_once('/')?;
    cluster.pod(&ObjectKey::new(namespace, name)).map(|pod| &**pod)
}

fn address(cluster: &Cluster, end: &End) -> Result<IpAddr, ProbeError> {
    let (ips, family) = match end {
        End::Ip { ip } => return Ok(*ip),
        End::Pod { pod, family } => {
            let found = pod_named(cluster, pod).filter(|pod| !pod.is_terminated());
            let found = found.ok_or_else(|| ProbeError::NoPod(pod.clone()))?;
            (&found.ips, family)
        }
        End::Node { node, family } => {
            let found = cluster.node(node).ok_or_else(|| ProbeError::NoNode(node.clone()))?;
            (&found.internal_ips, family)
        }
    };
    let of_family = |ip: &&IpAddr| family.is_none_or(|family| ip.is_ipv4() == (family == 4));
    let missing = || match family {
        Some(family) => ProbeError::NoFamily(end.clone(), *family),
        None => match end {
            End::Pod { pod, .. } => ProbeError::NoPod(pod.clone()),
            other => ProbeError::NoNode(other.to_string()),
        },
    };
    ips.iter().find(of_family).copied().ok_or_else(missing)
}
