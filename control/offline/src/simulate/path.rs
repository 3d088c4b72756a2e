//! The path of one connection: egress policy and Service at the node where it enters, ingress policy at the destination's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use heddle_engine::{Allowed, Decision, Denial, DropReason, Query, Target, decide, judge};
use heddle_flow::Origin;
use heddle_model::Cluster;
use heddle_tables::{Client, Direction, Frontend, Place, PolicyVerdict, RuleId, ServiceLookup, Snapshot};
use heddle_wire::Ip;
use heddle_wire::rewrite::Tuple;

use super::cluster_tables::ClusterTables;
use super::probe::{Answer, Probe, ProbeError, Verdict};
use super::resolve::{ResolvedProbe, resolve};

/// The source port of a probe, and the identifier of its echo request.
pub const SOURCE_PORT: u16 = 49_152;

/// Answers a probe. `node` is the entry node for probes that name none.
///
/// # Errors
/// An end is not known, or nothing says where the packet enters.
pub fn ask(tables: &mut ClusterTables, probe: &Probe, node: Option<&str>) -> Result<Answer, ProbeError> {
    let asked = resolve(tables.cluster(), probe, node)?;
    let service = Service::at(tables, &asked);
    let path = walk(tables, &asked, None);
    Ok(Answer {
        id: probe.id.clone(),
        verdict: path.verdict,
        policy: path.why(),
        backends: service.iter().flat_map(Service::answering).collect(),
        masquerade: path.masquerade,
    })
}

/// The Service at the destination address of a connection, as its entry node has it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// The frontend.
    pub(super) frontend: Arc<Frontend>,
    /// Who asks.
    pub(super) client: Client,
}

impl Service {
    /// The Service that a connection reaches, if its destination is one.
    pub(super) fn at(tables: &mut ClusterTables, asked: &ResolvedProbe) -> Option<Self> {
        let snapshot = tables.node_tables(&asked.entry).snapshot();
        match snapshot.frontend(Ip::from(asked.to), asked.proto, asked.port) {
            ServiceLookup::Frontend(frontend) => Some(Self {
                frontend: Arc::clone(frontend),
                client: Client::from(snapshot.address(Ip::from(asked.from)).place),
            }),
            ServiceLookup::NotAService | ServiceLookup::NoSuchPort => None,
        }
    }

    /// Where this client may be sent.
    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        let masquerade = self.frontend.masquerades(self.client);
        let all = self.frontend.backends_for(self.client).list().iter();
        all.map(move |backend| Target {
            dst: backend.ip,
            dport: backend.port,
            service: true,
            sticky: false,
            masquerade,
        })
    }

    /// The same as the answer spells it: sorted by text.
    fn answering(&self) -> Vec<String> {
        let all = self.targets();
        let mut all: Vec<String> = all
            .map(|target| SocketAddr::new(target.dst.to_std(), target.dport).to_string())
            .collect();
        all.sort();
        all
    }
}

/// The verdict of policy on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyAnswer {
    /// The side.
    pub(super) direction: Direction,
    /// The node.
    pub(super) node: String,
    /// Policy allows the connection.
    pub(super) allowed: bool,
    /// The rule that decided; [`RuleId::NO_POLICY`] has no text.
    pub(super) rule: Option<String>,
}

/// The outcome of a connection on one path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// How it ended.
    pub(super) verdict: Verdict,
    /// The source is masqueraded.
    pub(super) masquerade: bool,
    /// The verdicts of policy, in the order of evaluation.
    pub(super) judged: Vec<PolicyAnswer>,
    /// The reason, if no policy decided.
    pub(super) note: Option<String>,
}

impl Path {
    /// Returns the deciding rules or the reason, as text.
    pub(super) fn why(&self) -> String {
        if let Some(denied) = self.judged.iter().find(|judged| !judged.allowed) {
            return denied.rule.clone().unwrap_or_default();
        }
        let mut reasons: Vec<&str> = Vec::new();
        for rule in self.judged.iter().filter_map(|judged| judged.rule.as_deref()) {
            if !reasons.contains(&rule) {
                reasons.push(rule);
            }
        }
        match (&self.note, &reasons[..]) {
            (Some(note), []) => note.clone(),
            (None, []) => "no policy forbids it".to_owned(),
            (Some(note), reasons) if self.verdict == Verdict::Allow => format!("{}; {note}", reasons.join("; ")),
            (Some(note), _) => note.clone(),
            (None, reasons) => reasons.join("; "),
        }
    }

    fn judge(&mut self, snapshot: &Snapshot, direction: Direction, rule: RuleId, allowed: bool) {
        self.judged.push(PolicyAnswer {
            direction,
            node: snapshot.node().name.to_string(),
            allowed,
            rule: (rule != RuleId::NO_POLICY).then(|| name(snapshot, rule)),
        });
    }

    fn ends(&mut self, verdict: Verdict, note: impl Into<String>) {
        self.verdict = verdict;
        self.note = Some(note.into());
    }
}

/// Returns the text of a rule id.
fn name(snapshot: &Snapshot, rule: RuleId) -> String {
    match snapshot.provenance(rule) {
        Some(reason) => reason.to_string(),
        None => format!("rule {}", rule.0),
    }
}

/// Follows the connection from node to node; `via`: to that endpoint of its Service, instead of the one that is chosen.
pub(super) fn walk(tables: &mut ClusterTables, asked: &ResolvedProbe, via: Option<Target>) -> Path {
    let mut path = Path {
        verdict: Verdict::Allow,
        masquerade: false,
        judged: Vec::new(),
        note: None,
    };
    let knocks = Step {
        node: asked.entry.clone(),
        to: asked.to,
        port: asked.port,
    };
    if let Some(next) = step(tables, asked, &knocks, via, &mut path) {
        // The destination's node has the last word on what it takes in.
        step(tables, asked, &next, None, &mut path);
    }
    path
}

/// A node to be asked about a destination.
struct Step {
    node: String,
    to: IpAddr,
    port: u16,
}

/// Evaluates the path at one node. Returns the next node, if the path continues there.
fn step(
    tables: &mut ClusterTables,
    asked: &ResolvedProbe,
    at: &Step,
    via: Option<Target>,
    path: &mut Path,
) -> Option<Step> {
    let snapshot = tables.node_tables(&at.node).snapshot();
    let query = query(snapshot, asked, at.to, at.port, SOURCE_PORT);
    let is_itself = asked.from == at.to && (query.origin != Origin::HOST || !is_a_service(snapshot, &query));
    if is_itself {
        // It never leaves the pod, or the node.
        path.note = Some(heddle_tables::Provenance::Itself.to_string());
        return None;
    }
    if query.origin == Origin::HOST && is_the_kernels(snapshot, &query) {
        path.note = Some("what a node sends elsewhere is not judged there".to_owned());
        return next(tables.cluster(), &at.node, at.to, at.port);
    }
    let aimed = via.or_else(|| (!is_a_service(snapshot, &query)).then(|| Target::direct(query.tuple.dst, at.port)));
    let decision = match via {
        Some(target) => match judge(snapshot, &query, target) {
            Ok(passage) => Decision::Pass(passage),
            Err(denial) => Decision::Drop(denial),
        },
        None => decide(snapshot, &query),
    };
    match decision {
        Decision::Pass(passage) => {
            passes(snapshot, &passage, path);
            let target = passage.target;
            next(tables.cluster(), &at.node, target.dst.to_std(), target.dport)
        }
        Decision::Gateway => {
            path.note = Some("the gateway is heddle itself".to_owned());
            None
        }
        Decision::Reject => {
            path.ends(Verdict::Reject, rejected(snapshot, &query));
            None
        }
        Decision::Drop(denial) => {
            drops(snapshot, &query, aimed, denial, path);
            None
        }
    }
}

/// The first packet of a connection as it reaches a node.
pub(super) fn query(snapshot: &Snapshot, asked: &ResolvedProbe, to: IpAddr, port: u16, source_port: u16) -> Query {
    let src = Ip::from(asked.from);
    Query {
        origin: match snapshot.address(src).place {
            Place::Local(pod) => Origin::pod(pod),
            _ => Origin::HOST,
        },
        tuple: Tuple {
            src,
            dst: Ip::from(to),
            sport: source_port,
            dport: port,
        },
        proto: asked.proto,
    }
}

fn passes(snapshot: &Snapshot, passage: &Allowed, path: &mut Path) {
    path.masquerade |= passage.is_masqueraded();
    if passage.from.is_pod() {
        path.judge(snapshot, Direction::Egress, passage.egress_rule, true);
    }
    if passage.to().is_pod() {
        path.judge(snapshot, Direction::Ingress, passage.ingress_rule, true);
    }
}

/// `aimed`: where it was to go, where that is known.
fn drops(snapshot: &Snapshot, query: &Query, aimed: Option<Target>, denial: Denial, path: &mut Path) {
    path.verdict = Verdict::Deny;
    let direction = match denial.reason {
        DropReason::PolicyDeniedEgress => Direction::Egress,
        DropReason::PolicyDeniedIngress => Direction::Ingress,
        other => {
            path.note = Some(other.as_str().to_owned());
            return;
        }
    };
    // The denial does not tell what let it out of its source before.
    if direction == Direction::Ingress
        && let (Some(pod), Some(target)) = (query.origin.as_pod().and_then(|no| snapshot.endpoint(no)), aimed)
        && let PolicyVerdict::Allow(rule) = pod.judge(
            Direction::Egress,
            snapshot.address(target.dst),
            query.proto,
            target.dport,
        )
    {
        path.judge(snapshot, Direction::Egress, rule, true);
    }
    path.judge(snapshot, direction, denial.rule, false);
}

fn is_a_service(snapshot: &Snapshot, query: &Query) -> bool {
    let t = &query.tuple;
    snapshot.frontend(t.dst, query.proto, t.dport) != ServiceLookup::NotAService
}

/// Returns true if a packet that no pod of the node sent is for no pod of the node and no Service either: there is nothing to
/// judge here. Whether it reaches another node is the kernel's routing.
pub(super) fn is_the_kernels(snapshot: &Snapshot, query: &Query) -> bool {
    let dst = query.tuple.dst;
    let elsewhere = matches!(
        snapshot.address(dst).place,
        Place::Host | Place::RemoteHost(_) | Place::Node(_) | Place::Outside
    );
    elsewhere && !is_a_service(snapshot, query) && !snapshot.node().in_service_range(dst)
}

/// The node of the pod that has an address, if that is another one.
fn next(cluster: &Cluster, node: &str, to: IpAddr, port: u16) -> Option<Step> {
    let there = cluster.pod_at(to)?.node.as_deref().filter(|there| *there != node)?;
    Some(Step {
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
