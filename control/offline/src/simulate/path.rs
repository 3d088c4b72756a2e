//! The path of one connection: egress policy and Service at the entry node, a Service at the node whose address the connection goes to,
//! ingress policy at the destination's node.

use std::net::IpAddr;
use std::sync::Arc;

use heddle_engine::{
    Allowed, Decision, Denial, DropReason, Query, Source, Target, decide, judge, service_at, target_of,
};
use heddle_flow::{Egress, Origin};
use heddle_model::Cluster;
use heddle_tables::{
    Backend, Client, Direction, EndpointId, Frontend, NodeId, Place, PolicyVerdict, RuleId, ServiceLookup, Snapshot,
};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};

use super::cluster_tables::ClusterTables;
use super::probe::{Answer, Probe, ProbeError, Verdict};
use super::resolve::{ResolvedProbe, resolve};

/// The source port of a probe, and the identifier of its echo request.
pub const SOURCE_PORT: u16 = 49_152;
/// The most nodes on a path: the source's, one whose node port or host port it goes to, and the backend's.
const MAX_NODES: usize = 3;

/// Answers a probe. `node` is the entry node for probes that name none.
///
/// # Errors
/// An end does not exist, or the entry node is not given and cannot be derived.
pub fn answer(tables: &mut ClusterTables, probe: &Probe, node: Option<&str>) -> Result<Answer, ProbeError> {
    let resolved = resolve(tables.cluster(), probe, node)?;
    let service = Service::at(tables, &resolved);
    let path = walk(tables, &resolved, None);
    Ok(Answer {
        id: probe.id.clone(),
        verdict: path.verdict,
        policy: path.explanation(),
        backends: service.iter().flat_map(Service::backend_texts).collect(),
        masquerade: path.masquerade,
    })
}

/// The Service or host port at the destination address of a connection, as the entry node has it, or else the node with that address.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// The frontend.
    pub(super) frontend: Arc<Frontend>,
    /// The client's class.
    pub(super) client: Client,
}

impl Service {
    /// Returns the Service at the destination of a connection, if there is one.
    pub(super) fn at(tables: &mut ClusterTables, resolved: &ResolvedProbe) -> Option<Self> {
        let owner = tables.cluster().node_at(resolved.to).map(|node| node.name.to_string());
        let nodes = std::iter::once(resolved.entry.clone()).chain(owner);
        nodes
            .into_iter()
            .find_map(|node| Self::at_node(tables, &node, resolved))
    }

    fn at_node(tables: &mut ClusterTables, node: &str, resolved: &ResolvedProbe) -> Option<Self> {
        let snapshot = tables.node_tables(node).snapshot();
        match snapshot.frontend(Ip::from(resolved.to), resolved.proto, resolved.port) {
            ServiceLookup::Frontend(frontend) => Some(Self {
                frontend: Arc::clone(frontend),
                client: Client::from(snapshot.address(Ip::from(resolved.from)).place),
            }),
            ServiceLookup::NotAService | ServiceLookup::NoSuchPort => None,
        }
    }

    /// Returns the backends to which this client may be sent.
    pub(super) fn backends(&self) -> impl Iterator<Item = Backend> + '_ {
        self.frontend.backends_for(self.client).list().iter().copied()
    }

    /// Returns the backends in the form of the answer, sorted by text.
    fn backend_texts(&self) -> Vec<String> {
        let mut all: Vec<String> = self.backends().map(|backend| backend.socket().to_string()).collect();
        all.sort();
        all
    }
}

/// The verdict of policy on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyAnswer {
    /// The side: egress of the source or ingress of the destination.
    pub(super) direction: Direction,
    /// The node that evaluated it.
    pub(super) node: String,
    /// True if policy allows the connection.
    pub(super) allowed: bool,
    /// The rule that decided; [`RuleId::NO_POLICY`] has no text.
    pub(super) rule: Option<String>,
}

/// The outcome of a connection on one path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// The verdict.
    pub(super) verdict: Verdict,
    /// True if the source is masqueraded.
    pub(super) masquerade: bool,
    /// The verdicts of policy, in the order of evaluation.
    pub(super) policy: Vec<PolicyAnswer>,
    /// The reason, if no policy decided.
    pub(super) reason: Option<String>,
}

impl Path {
    /// Returns the deciding rules or the reason, as text.
    pub(super) fn explanation(&self) -> String {
        if let Some(denied) = self.policy.iter().find(|answer| !answer.allowed) {
            return denied.rule.clone().unwrap_or_default();
        }
        let mut rules: Vec<&str> = Vec::new();
        for rule in self.policy.iter().filter_map(|answer| answer.rule.as_deref()) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        match (&self.reason, &rules[..]) {
            (Some(reason), []) => reason.clone(),
            (None, []) => "no policy forbids it".to_owned(),
            (Some(reason), rules) if self.verdict == Verdict::Allow => format!("{}; {reason}", rules.join("; ")),
            (Some(reason), _) => reason.clone(),
            (None, rules) => rules.join("; "),
        }
    }

    /// Adds a verdict of policy.
    fn add_policy(&mut self, snapshot: &Snapshot, direction: Direction, rule: RuleId, allowed: bool) {
        self.policy.push(PolicyAnswer {
            direction,
            node: snapshot.node().name.to_string(),
            allowed,
            rule: (rule != RuleId::NO_POLICY).then(|| rule_text(snapshot, rule)),
        });
    }

    /// Sets a verdict that policy did not decide.
    fn set_verdict(&mut self, verdict: Verdict, reason: impl Into<String>) {
        self.verdict = verdict;
        self.reason = Some(reason.into());
    }
}

/// Returns the text of a rule id.
fn rule_text(snapshot: &Snapshot, rule: RuleId) -> String {
    match snapshot.provenance(rule) {
        Some(reason) => reason.to_string(),
        None => format!("rule {}", rule.0),
    }
}

/// Follows the connection from node to node. `via` replaces the backend that the Service would choose.
pub(super) fn walk(tables: &mut ClusterTables, resolved: &ResolvedProbe, mut via: Option<Backend>) -> Path {
    let mut path = Path {
        verdict: Verdict::Allow,
        masquerade: false,
        policy: Vec::new(),
        reason: None,
    };
    let entry = Step {
        node: resolved.entry.clone(),
        from: resolved.from,
        to: resolved.to,
        port: resolved.port,
        forwarded_by: None,
    };
    let mut at = Some(entry);
    for _ in 0..MAX_NODES {
        let Some(here) = at else { break };
        at = step(tables, resolved, &here, &mut via, &mut path);
    }
    path
}

/// A node on the path, and the source and the destination of the packet that reaches it.
struct Step {
    node: String,
    from: IpAddr,
    to: IpAddr,
    port: u16,
    /// The node that forwarded the packet without translation.
    forwarded_by: Option<String>,
}

/// Evaluates the path at one node. Returns the next node, if the path continues there. The node that translates the destination takes
/// `via`.
fn step(
    tables: &mut ClusterTables,
    resolved: &ResolvedProbe,
    at: &Step,
    via: &mut Option<Backend>,
    path: &mut Path,
) -> Option<Step> {
    let snapshot = tables.node_tables(&at.node).snapshot();
    let mut query = query(snapshot, (at.from, at.to), resolved.proto, at.port, SOURCE_PORT);
    if let Some(forwarder) = at.forwarded_by.as_deref().and_then(|name| node_id(snapshot, name)) {
        query.origin = Origin::node(forwarder);
    }
    // No policy applies to traffic that never leaves a pod or a node, or that only the kernel routes.
    let is_itself = resolved.from == at.to && (query.origin != Origin::HOST || !is_a_service(snapshot, &query));
    if is_itself {
        path.reason = Some(heddle_tables::Provenance::Itself.to_string());
        return None;
    }
    if is_routed_by_kernel(snapshot, &query) {
        path.reason = Some(
            "traffic that a node sends to another node or outside is not subject to policy at that node".to_owned(),
        );
        return next(tables.cluster(), &at.node, (at.from, at.to), at.port);
    }

    // The decision of the workers.
    let service = service_at(snapshot, &query);
    let target = match (service, *via) {
        (ServiceLookup::Frontend(frontend), Some(backend)) => Some(target_of(snapshot, &query, frontend, backend)),
        _ => None,
    };
    let is_direct = service == ServiceLookup::NotAService;
    let aimed = target.or_else(|| is_direct.then(|| Target::direct(query.tuple.dst, at.port)));
    let decision = match target {
        Some(target) => match judge(snapshot, &query, target) {
            Ok(passage) => Decision::Pass(passage),
            Err(denial) => Decision::Drop(denial),
        },
        None => decide(snapshot, &query),
    };
    match decision {
        Decision::Pass(passage) => {
            add_allowed(snapshot, &passage, path);
            let target = passage.target;
            if let (true, Egress::Node(id)) = (target.forwarded, passage.egress) {
                return Some(Step {
                    node: snapshot.remote_node(id)?.name.to_string(),
                    from: at.from,
                    to: at.to,
                    port: at.port,
                    forwarded_by: Some(at.node.clone()),
                });
            }
            if !is_direct {
                *via = None;
            }
            // The other node sees the source after this node's translation, or after the kernel's.
            let from = match (passage.egress, passage.source) {
                (Egress::Node(_) | Egress::Uplink(_), Source::Masqueraded(ip)) => ip.to_std(),
                (Egress::Endpoint(EndpointId::HOST), _) if query.origin.as_pod().is_some() => {
                    let node = snapshot.node().address_of_family(at.from.is_ipv4());
                    node.map_or(at.from, Ip::to_std)
                }
                _ => at.from,
            };
            next(tables.cluster(), &at.node, (from, target.dst.to_std()), target.dport)
        }
        Decision::Gateway => {
            path.reason = Some("heddle itself answers at the gateway's address".to_owned());
            None
        }
        Decision::Reject => {
            path.set_verdict(Verdict::Reject, reject_reason(snapshot, &query));
            None
        }
        Decision::Drop(denial) => {
            add_denied(snapshot, &query, aimed, denial, path);
            None
        }
    }
}

/// Returns the first packet of a connection as it reaches a node.
pub(super) fn query(
    snapshot: &Snapshot,
    (from, to): (IpAddr, IpAddr),
    proto: Proto,
    port: u16,
    source_port: u16,
) -> Query {
    let src = Ip::from(from);
    Query {
        origin: origin(snapshot, src, Ip::from(to)),
        tuple: Tuple {
            src,
            dst: Ip::from(to),
            sport: source_port,
            dport: port,
        },
        proto,
    }
}

/// Returns the place where the first packet of a connection comes in at a node.
fn origin(snapshot: &Snapshot, src: Ip, dst: Ip) -> Origin {
    let by_tunnel = |node| snapshot.node_path(node).is_some_and(|path| path.outer.is_some());
    match snapshot.address(src).place {
        Place::Local(pod) => Origin::pod(pod),
        Place::Host => Origin::HOST,
        Place::Node(node) if by_tunnel(node) => Origin::node(node),
        // A node's processes send to other nodes' own addresses without heddle.
        Place::RemoteHost(node) if by_tunnel(node) && matches!(snapshot.address(dst).place, Place::Local(_)) => {
            Origin::node(node)
        }
        Place::Node(_) | Place::RemoteHost(_) | Place::Unreachable | Place::Outside => Origin::UPLINK,
    }
}

/// Adds the verdicts of policy for an allowed connection.
fn add_allowed(snapshot: &Snapshot, passage: &Allowed, path: &mut Path) {
    path.masquerade |= passage.is_masqueraded();
    if passage.from.is_pod() {
        path.add_policy(snapshot, Direction::Egress, passage.egress_rule, true);
    }
    if passage.to().is_pod() {
        path.add_policy(snapshot, Direction::Ingress, passage.ingress_rule, true);
    }
}

/// Adds the reason of a drop. `aimed` is the destination after translation, if it is known.
fn add_denied(snapshot: &Snapshot, query: &Query, aimed: Option<Target>, denial: Denial, path: &mut Path) {
    path.verdict = Verdict::Deny;
    let direction = match denial.reason {
        DropReason::PolicyDeniedEgress => Direction::Egress,
        DropReason::PolicyDeniedIngress => Direction::Ingress,
        other => {
            path.reason = Some(other.as_str().to_owned());
            return;
        }
    };
    // A denial at ingress does not name the egress rule that allowed the connection before, so egress is evaluated
    // again.
    if direction == Direction::Ingress
        && let (Some(pod), Some(target)) = (query.origin.as_pod().and_then(|no| snapshot.endpoint(no)), aimed)
        && let PolicyVerdict::Allow(rule) = pod.judge(
            Direction::Egress,
            snapshot.address(target.dst),
            query.proto,
            target.dport,
        )
    {
        path.add_policy(snapshot, Direction::Egress, rule, true);
    }
    path.add_policy(snapshot, direction, denial.rule, false);
}

fn is_a_service(snapshot: &Snapshot, query: &Query) -> bool {
    service_at(snapshot, query) != ServiceLookup::NotAService
}

/// Returns the identifier of another node.
fn node_id(snapshot: &Snapshot, name: &str) -> Option<NodeId> {
    let mut nodes = snapshot.remote_nodes();
    nodes.find(|(_, node)| *node.name == *name).map(|(id, _)| id)
}

/// Returns true if the kernel routes a packet without heddle, so that no policy of this node applies to it: no pod of the cluster
/// sent it, and it is for neither a pod nor a Service.
pub(super) fn is_routed_by_kernel(snapshot: &Snapshot, query: &Query) -> bool {
    let dst = query.tuple.dst;
    let place = snapshot.address(dst).place;
    let without_heddle = match query.origin {
        Origin::HOST => matches!(place, Place::Host | Place::RemoteHost(_) | Place::Outside),
        // Packets for no pod of the node do not enter heddle there.
        Origin::UPLINK => matches!(
            place,
            Place::Host | Place::RemoteHost(_) | Place::Node(_) | Place::Outside
        ),
        _ => false,
    };
    without_heddle && !is_a_service(snapshot, query) && !snapshot.node().in_service_range(dst)
}

/// Returns the node that has an address, or the node of the pod that has it, if that is another node.
fn next(cluster: &Cluster, node: &str, (from, to): (IpAddr, IpAddr), port: u16) -> Option<Step> {
    let owner = cluster.node_at(to).map(|node| &*node.name);
    let there = owner.or_else(|| cluster.pod_at(to)?.node.as_deref());
    let there = there.filter(|there| *there != node)?;
    Some(Step {
        node: there.to_owned(),
        from,
        to,
        port,
        forwarded_by: None,
    })
}

/// Returns the reason why a Service rejects a connection.
fn reject_reason(snapshot: &Snapshot, query: &Query) -> String {
    match snapshot.frontend(query.tuple.dst, query.proto, query.tuple.dport) {
        ServiceLookup::Frontend(frontend) => format!("Service {} has no endpoints", frontend.name),
        _ => "a Service has this address, but not this port and protocol".to_owned(),
    }
}
