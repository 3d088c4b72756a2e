//! Makes the frontends of one Service, with kube-proxy's behavior.
//!
//! A Service has frontends at its cluster addresses, at the load balancer addresses that nodes serve themselves, at its
//! external addresses (if the configuration allows them), at a node port of every address of this node, and at aliases
//! of these. `backends` chooses the endpoints behind them. The agent serves health check ports and sets the routes to
//! the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{
    Cluster, Delta, ExternalForwarding, LoadBalancing, ObjectKey, Service, ServicePort, SessionAffinity, TrafficPolicy,
};
use heddle_tables::{Affinity, Backend, Backends, Balancing, Frontend, FrontendKey, FrontendKind, Prefix};
use heddle_wire::{Ip, Proto};

use crate::prefix::to_prefix;
use crate::service::backends::PortEndpoints;

/// The alias of each frontend that has one: another address and port that leads to it.
///
/// heddle never receives a connection from a process of the node to an address of the node itself, unless the kernel
/// translates the destination to an address that only heddle has, with a port for each frontend. The agent chooses this
/// alias. Connections to it are treated as connections to the frontend.
pub(crate) type Aliases = BTreeMap<FrontendKey, FrontendKey>;

/// The properties of this node on which frontends depend.
pub(crate) struct NodeScope<'a> {
    pub(crate) name: &'a str,
    pub(crate) zone: Option<&'a str>,
    pub(crate) addresses: &'a BTreeSet<Ip>,
    /// True if `spec.externalIPs` of Services are served.
    pub(crate) external_ips: bool,
    /// The way of connections from outside to backends on other nodes, for Services without an annotation.
    pub(crate) external_forwarding: ExternalForwarding,
}

/// Returns the addresses of a Service at which frontends listen, with the kind of frontend.
fn addresses(service: &Service, external_ips: bool) -> impl Iterator<Item = (FrontendKind, Ip)> {
    let cluster = service.cluster_ips.get().iter().copied();
    let external = service.served_external_ips().filter(move |_| external_ips);
    let of = |kind| move |ip| (kind, Ip::from(ip));
    cluster
        .map(of(FrontendKind::ClusterIp))
        .chain(service.served_balancers().map(of(FrontendKind::LoadBalancer)))
        .chain(external.map(of(FrontendKind::ExternalIp)))
}

/// Returns the Services that have an address in common with a changed Service, in its old or new version. They may gain
/// or lose a frontend.
pub(crate) fn services_at_same_addresses(cluster: &Cluster, delta: &Delta<Service>) -> BTreeSet<ObjectKey> {
    [&delta.before, &delta.after]
        .into_iter()
        .flatten()
        .flat_map(|service| service.addresses())
        .flat_map(|ip| cluster.services_at(ip))
        .map(|service| service.key.clone())
        .collect()
}

/// Returns the frontends of a Service.
pub(crate) fn frontends_of(
    cluster: &Cluster,
    service: &Service,
    aliases: &Aliases,
    scope: &NodeScope<'_>,
) -> BTreeMap<FrontendKey, Frontend> {
    let mut compiled = BTreeMap::new();
    let mut tables = Vec::new();
    for port in &service.ports {
        compile_port(cluster, service, port, aliases, scope, &mut tables, &mut compiled);
    }
    compiled
}

/// Compiles the frontends of one port. `tables` has the backends of other ports, whose tables this one may share.
fn compile_port(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    aliases: &Aliases,
    scope: &NodeScope<'_>,
    tables: &mut Vec<Backends>,
    compiled: &mut BTreeMap<FrontendKey, Frontend>,
) {
    let name: Arc<str> = if port.name.is_empty() {
        service.key.to_string().into()
    } else {
        format!("{}:{}", service.key, port.name).into()
    };
    let proto = Proto(port.protocol.number());
    // All frontends of a family share their backends.
    let mut families: [Option<PortBackends>; 2] = [None, None];
    let mut add = |kind, key: FrontendKey| {
        let family = families.get_mut(usize::from(!key.ip.is_v4()));
        let Some(family) = family else { return };
        let backends = family.get_or_insert_with(|| {
            let endpoints = PortEndpoints::of(cluster, service, port, key.ip.is_v4());
            PortBackends::new(&endpoints, service, port, scope, tables)
        });
        let frontend = backends.frontend(kind, key, &name, service, scope);
        compiled.entry(key).or_insert(frontend);
    };
    for (kind, ip) in addresses(service, scope.external_ips) {
        let key = FrontendKey {
            ip,
            proto,
            port: port.port.get(),
        };
        if !is_taken_by_other(cluster, service, kind, key, scope.external_ips) {
            add(kind, key);
            if let Some(alias) = aliases.get(&key) {
                add(kind, *alias);
            }
        }
    }
    if let Some(number) = port.node_port {
        for ip in service.cluster_ips.get() {
            let key = FrontendKey::node_port(ip.is_ipv4(), proto, number.get());
            add(FrontendKind::NodePort, key);
        }
    }
    for frontend in compiled.values_mut().filter(|f| f.kind == FrontendKind::LoadBalancer) {
        if frontend.source_ranges.is_none() {
            frontend.source_ranges = source_ranges(service, frontend.key.ip, scope.addresses);
        }
    }
}

/// Returns true if another Service has the same address and port and precedes this one: by the kind of the address, then
/// by name.
fn is_taken_by_other(
    cluster: &Cluster,
    service: &Service,
    kind: FrontendKind,
    at: FrontendKey,
    external_ips: bool,
) -> bool {
    cluster.services_at(at.ip.to_std()).any(|other| {
        let listens = |p: &ServicePort| p.port.get() == at.port && p.protocol.number() == at.proto.0;
        let first = addresses(other, external_ips)
            .filter(|(_, ip)| *ip == at.ip)
            .map(|(kind, _)| kind)
            .min();
        other.key != service.key
            && other.is_proxied()
            && other.ports.iter().any(listens)
            && first.is_some_and(|first| (first, &other.key) < (kind, &service.key))
    })
}

/// Returns the source ranges in the family of a load balancer's address; `None`, which allows everyone, if there are none
/// (kube-proxy keeps them by family). If they cover this node, connections of the node itself to that address are allowed
/// even with the address as their source (kube-proxy, `allowFromNode`).
fn source_ranges(service: &Service, balancer: Ip, own: &BTreeSet<Ip>) -> Option<Arc<[Prefix]>> {
    let family = service
        .source_ranges
        .iter()
        .filter(|net| net.addr().is_ipv4() == balancer.is_v4());
    let mut ranges: Vec<Prefix> = family.clone().filter_map(|net| to_prefix(*net)).collect();
    if own.iter().any(|own| ranges.iter().any(|r| r.contains(*own))) {
        ranges.push(Prefix::host(balancer));
    }
    (family.count() > 0).then(|| ranges.into())
}

/// The backends of one port in one family.
struct PortBackends {
    cluster_wide: Backends,
    /// The backends on this node, if a traffic policy of the Service is `Local`.
    local: Option<Backends>,
    /// The backends that are pods of this node, if there are any and the Service is reached from outside.
    here: Option<Arc<Backends>>,
    draining: Box<[Backend]>,
}

impl PortBackends {
    fn new(
        endpoints: &PortEndpoints<'_>,
        service: &Service,
        port: &ServicePort,
        scope: &NodeScope<'_>,
        tables: &mut Vec<Backends>,
    ) -> Self {
        let cluster_wide = Backends::sharing(endpoints.cluster_wide(scope.name, scope.zone), false, tables);
        if cluster_wide.table_size() > 0 {
            tables.push(cluster_wide.clone());
        }
        let policies = [service.internal_policy, service.external_policy];
        let local = policies
            .contains(&TrafficPolicy::Local)
            .then(|| Backends::new(endpoints.local_to(scope.name), endpoints.has_usable()));
        let has_address = || addresses(service, scope.external_ips).any(|(kind, _)| kind.is_external());
        let is_external = port.node_port.is_some() || has_address();
        let is_forwarded = is_external && service.external_policy == TrafficPolicy::Cluster;
        Self {
            here: is_forwarded.then(|| pods_here(endpoints, scope)).flatten(),
            draining: endpoints.draining(&cluster_wide, local.as_ref(), port.protocol),
            cluster_wide,
            local,
        }
    }

    fn frontend(
        &self,
        kind: FrontendKind,
        key: FrontendKey,
        name: &Arc<str>,
        service: &Service,
        scope: &NodeScope<'_>,
    ) -> Frontend {
        let policy = if kind == FrontendKind::ClusterIp {
            service.internal_policy
        } else {
            service.external_policy
        };
        let local = self.local.as_ref().filter(|_| policy == TrafficPolicy::Local);
        let mut frontend = Frontend::new(key, kind, Arc::clone(name), local.unwrap_or(&self.cluster_wide).clone());
        // As in kube-proxy, a pod's connection to an external address with the policy `Local` may go to all endpoints.
        if local.is_some() && kind != FrontendKind::ClusterIp {
            frontend.inside = Some(self.cluster_wide.clone());
        }
        if kind.is_external() {
            let forwarding = service.external_forwarding.unwrap_or(scope.external_forwarding);
            frontend.direct_return = forwarding == ExternalForwarding::Dsr;
            frontend.here.clone_from(&self.here);
        }
        frontend.draining.clone_from(&self.draining);
        frontend.balancing = match service.load_balancing {
            LoadBalancing::Maglev => Balancing::Maglev,
            LoadBalancing::Random => Balancing::Random,
        };
        frontend.affinity = match service.session_affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_seconds } => Some(Affinity::new(name, timeout_seconds)),
        };
        frontend
    }
}

/// Returns the backends that are pods of this node; `None` if there are none. An endpoint with the node's own address is a process of
/// the node, which answers without heddle.
fn pods_here(endpoints: &PortEndpoints<'_>, scope: &NodeScope<'_>) -> Option<Arc<Backends>> {
    let mut pods = endpoints.local_to(scope.name);
    pods.retain(|backend| !scope.addresses.contains(&backend.ip));
    (!pods.is_empty()).then(|| Arc::new(Backends::new(pods, true)))
}
