//! The explanation of one connection: its verdict, the Service, the policies that select either side, and the deciding rule.
//!
//! `heddle-cli` renders it for people.

use std::net::{IpAddr, SocketAddr};

use heddle_model::{Cluster, ObjectKey, Pod};
use heddle_tables::{Direction, FrontendKind};
use serde::Serialize;

use super::cluster_tables::ClusterTables;
use super::end_syntax::{Destination, NamedEnd};
use super::explain_error::ExplainError;
use super::named_object::{NamedObject, common_family};
use super::path::{self, Path, Service};
use super::policy_selection::selecting;
use super::probe::{End, Probe, Verdict};
use super::resolve::{ResolvedProbe, resolve};

/// An end with its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedEnd {
    /// The name on the command line.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The pod that has the address.
    pub pod: Option<String>,
    /// The pod's node.
    pub node: Option<String>,
}

/// The Service that a connection goes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedService {
    /// `namespace/name`, and the port's name after a colon if it has one.
    pub name: String,
    /// The kind of the address: `cluster address`, `node port` and so on.
    pub address: &'static str,
    /// True if the source ranges of the Service allow the client.
    pub admitted: bool,
}

/// Policy at one side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedSide {
    /// `egress` or `ingress`
    pub direction: &'static str,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// The policies that select the pod for that direction, in the order of evaluation.
    pub selected_by: Vec<String>,
    /// True if policy allows the connection. `None`: policy was not evaluated, because the other side denies the connection.
    pub allowed: Option<bool>,
    /// The rule that decided.
    pub rule: Option<String>,
}

/// One possible path of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedPath {
    /// The destination after translation.
    pub to: SocketAddr,
    /// The pod at the destination.
    pub pod: Option<String>,
    /// The pod's node.
    pub node: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// The rule or reason that decided.
    pub policy: String,
    /// True if the source address is masqueraded.
    pub masquerade: bool,
    /// The verdict of policy on each side.
    pub sides: Vec<ExplainedSide>,
}

/// A connection, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The source.
    pub from: ExplainedEnd,
    /// The destination.
    pub to: ExplainedEnd,
    /// The protocol.
    pub protocol: &'static str,
    /// The port; `None` for an echo request.
    pub port: Option<u16>,
    /// The node where the first packet enters.
    pub entry: String,
    /// The verdict. `None`: it depends on the endpoint that the Service chooses.
    pub verdict: Option<Verdict>,
    /// The Service that it goes through.
    pub service: Option<ExplainedService>,
    /// The possible paths: one, or one for each endpoint of the Service.
    #[serde(rename = "ways")]
    pub paths: Vec<ExplainedPath>,
}

/// Explains the first packet of a connection. `node` is the entry node, by default the node of an end.
///
/// # Errors
/// An end or a port does not exist, or the entry node is not given and cannot be derived.
pub fn explain(
    tables: &mut ClusterTables,
    from: &NamedEnd,
    to: &Destination,
    node: Option<&str>,
) -> Result<Explanation, ExplainError> {
    let cluster = tables.cluster();
    let (from_object, to_object) = (NamedObject::find(cluster, from)?, NamedObject::find(cluster, &to.end)?);
    let family = common_family(from, &from_object, to, &to_object)?;
    let (transport, port) = to_object.port(to, family)?;
    let probe = Probe {
        id: String::new(),
        src: from_object.end(family),
        dst: to_object.end(family),
        protocol: transport,
        port,
        node: None,
    };
    let resolved = resolve(cluster, &probe, node)?;

    // One path for each endpoint that the Service may choose.
    let service = Service::at(tables, &resolved);
    let mut paths = Vec::new();
    for backend in service.iter().flat_map(Service::backends) {
        let path = path::walk(tables, &resolved, Some(backend));
        paths.push(explained_path(tables.cluster(), &resolved, backend.socket(), &path));
    }

    // Without an endpoint, without a Service, or if the Service's source ranges refuse the client, there is one path.
    let admitted = service
        .as_ref()
        .is_none_or(|service| service.frontend.admits(heddle_wire::Ip::from(resolved.from)));
    if paths.is_empty() || !admitted {
        let path = path::walk(tables, &resolved, None);
        paths = vec![explained_path(
            tables.cluster(),
            &resolved,
            SocketAddr::new(resolved.to, resolved.port),
            &path,
        )];
    }
    let cluster = tables.cluster();
    let first = paths.first().map(|path| path.verdict);
    Ok(Explanation {
        from: explained_end(cluster, from.to_string(), resolved.from, &probe.src),
        to: explained_end(cluster, to.end.to_string(), resolved.to, &probe.dst),
        protocol: transport.as_str(),
        port,
        verdict: first.filter(|first| paths.iter().all(|path| path.verdict == *first)),
        service: service.map(|service| ExplainedService {
            name: service.frontend.name.to_string(),
            address: match service.frontend.kind {
                FrontendKind::ClusterIp => "cluster address",
                FrontendKind::LoadBalancer => "load balancer's address",
                FrontendKind::ExternalIp => "external address",
                FrontendKind::NodePort => "node port",
                FrontendKind::HostPort => "host port",
            },
            admitted,
        }),
        paths,
        entry: resolved.entry,
    })
}

/// Returns an end with the pod that has its address.
fn explained_end(cluster: &Cluster, name: String, address: IpAddr, end: &End) -> ExplainedEnd {
    let pod = match end {
        End::Pod { pod, .. } => pod
            .split_once('/')
            .and_then(|(namespace, name)| cluster.pod(&ObjectKey::new(namespace, name))),
        End::Node { .. } | End::Ip { .. } => cluster.pod_at(address),
    };
    ExplainedEnd {
        name,
        address,
        pod: pod.map(|pod| pod.key.to_string()),
        node: pod.and_then(|pod| pod.node.as_deref()).map(str::to_owned),
    }
}

/// Returns a path with the policies that select the pods at its ends.
fn explained_path(cluster: &Cluster, resolved: &ResolvedProbe, to: SocketAddr, path: &Path) -> ExplainedPath {
    let pod = cluster.pod_at(to.ip());
    let answer = |direction| path.policy.iter().find(move |answer| answer.direction == direction);
    let side = |pod: Option<&std::sync::Arc<Pod>>, direction: Direction| {
        // If no policy was evaluated, the policies that select the pod had no effect.
        let pod = pod.filter(|_| !path.policy.is_empty())?;
        let answer = answer(direction);
        Some(ExplainedSide {
            direction: direction.as_str(),
            pod: pod.key.to_string(),
            selected_by: selecting(cluster, pod, direction).map(|policy| policy.text).collect(),
            allowed: answer.map(|answer| answer.allowed),
            rule: answer.and_then(|answer| answer.rule.clone()),
        })
    };
    let sides = [
        side(cluster.pod_at(resolved.from), Direction::Egress),
        side(pod, Direction::Ingress),
    ];
    ExplainedPath {
        to,
        pod: pod.map(|pod| pod.key.to_string()),
        node: pod.and_then(|pod| pod.node.as_deref()).map(str::to_owned),
        verdict: path.verdict,
        policy: path.explanation(),
        masquerade: path.masquerade,
        sides: sides.into_iter().flatten().collect(),
    }
}
