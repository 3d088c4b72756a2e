//! Services: their frontends, as kube-proxy makes them.
//!
//! A Service has frontends at its cluster addresses, at its load balancer's (those that nodes serve themselves), at its
//! external addresses (where the configuration allows them), at a port of every address of this node, and at aliases of
//! these. Which endpoints they choose from is `endpoints`' to say. What it does not do: health check ports, and routes to the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{Cluster, Delta, LoadBalancing, ObjectKey, Service, ServicePort, SessionAffinity, TrafficPolicy};
use heddle_tables::{Affinity, Backend, Backends, Balancing, Frontend, FrontendKey, FrontendKind, Prefix};
use heddle_wire::{Ip, Proto};

use crate::compiler::{Compiler, RemovedBackend};
use crate::policy::cidrs::prefix;
use crate::service::backends::Endpoints;

/// What stands in the tables for each Service.
pub(crate) type Services = BTreeMap<ObjectKey, BTreeSet<FrontendKey>>;

/// The addresses of a Service that frontends listen on, with their kind.
fn addresses(service: &Service, external_ips: bool) -> impl Iterator<Item = (FrontendKind, Ip)> {
    let cluster = service.cluster_ips.get().iter().copied();
    let external = service.external_ips.iter().filter(move |_| external_ips).copied();
    let of = |kind| move |ip| (kind, Ip::from(ip));
    cluster
        .map(of(FrontendKind::ClusterIp))
        .chain(service.served_balancers().map(of(FrontendKind::LoadBalancer)))
        .chain(external.map(of(FrontendKind::ExternalIp)))
}

/// Services that may listen on the same addresses as this one, which a change of it may give or take something.
pub(crate) fn rivals(cluster: &Cluster, delta: &Delta<Service>) -> BTreeSet<ObjectKey> {
    [&delta.before, &delta.after]
        .into_iter()
        .flatten()
        .flat_map(|service| service.addresses())
        .flat_map(|ip| cluster.services_at(ip))
        .map(|service| service.key.clone())
        .collect()
}

impl Compiler {
    /// Makes the frontends of a Service anew.
    pub(crate) fn settle_service(&mut self, cluster: &Cluster, key: &ObjectKey) {
        let mut made = BTreeMap::new();
        if let Some(service) = cluster.service(key).filter(|s| s.is_proxied()) {
            for port in &service.ports {
                self.frontends(cluster, service, port, &mut made);
            }
        }
        let before = self.services.remove(key).unwrap_or_default();
        for gone in before.iter().filter(|key| !made.contains_key(*key)) {
            // Another Service may have taken the address over within the same changes.
            if self.frontend_owner.get(gone) == Some(key) {
                self.note_removed(*gone, None);
                self.tables.remove_frontend(*gone);
                self.frontend_owner.remove(gone);
            }
        }
        if made.is_empty() {
            return;
        }
        self.services.insert(key.clone(), made.keys().copied().collect());
        for (at, frontend) in made {
            self.note_removed(at, Some(&frontend));
            self.tables.set_frontend(Arc::new(frontend));
            self.frontend_owner.insert(at, key.clone());
        }
    }

    /// Notes the endpoints of a frontend that are not among those that it has from now on, and that a frontend is new: its
    /// address was somebody's else before.
    fn note_removed(&mut self, key: FrontendKey, now: Option<&Frontend>) {
        let Some(before) = self.tables.current().frontend_at(key) else {
            self.new_frontends |= now.is_some();
            return;
        };
        let gone = before.endpoints().filter(|b| !now.is_some_and(|now| now.keeps(b)));
        let gone: BTreeSet<RemovedBackend> = gone
            .map(|backend| RemovedBackend {
                frontend: key,
                backend: *backend,
            })
            .collect();
        self.removed_backends.extend(gone);
    }

    /// Makes the frontends of one port.
    fn frontends(
        &self,
        cluster: &Cluster,
        service: &Service,
        port: &ServicePort,
        made: &mut BTreeMap<FrontendKey, Frontend>,
    ) {
        let name: Arc<str> = if port.name.is_empty() {
            service.key.to_string().into()
        } else {
            format!("{}:{}", service.key, port.name).into()
        };
        let proto = Proto(port.protocol.number());
        let mut families: [Option<Answers>; 2] = [None, None];
        let mut put = |kind, key: FrontendKey| {
            let family = families.get_mut(usize::from(!key.ip.is_v4()));
            let Some(family) = family else { return };
            let answers = family.get_or_insert_with(|| self.answers(cluster, service, port, key.ip.is_v4()));
            let frontend = answers.frontend(kind, key, &name, service);
            made.entry(key).or_insert(frontend);
        };
        for (kind, ip) in addresses(service, self.config.external_ips) {
            let key = FrontendKey {
                ip,
                proto,
                port: port.port.get(),
            };
            if !self.is_taken(cluster, service, kind, key) {
                put(kind, key);
                if let Some(alias) = self.aliases.get(&key) {
                    put(kind, *alias);
                }
            }
        }
        if let Some(number) = port.node_port {
            for ip in service.cluster_ips.get() {
                put(
                    FrontendKind::NodePort,
                    FrontendKey::node_port(ip.is_ipv4(), proto, number.get()),
                );
            }
        }
        for frontend in made.values_mut().filter(|f| f.kind == FrontendKind::LoadBalancer) {
            if frontend.source_ranges.is_none() {
                frontend.source_ranges = self.source_ranges(service, frontend.key.ip);
            }
        }
    }

    /// Whether another Service listens there with more right: by a kind that comes first, then by name.
    fn is_taken(&self, cluster: &Cluster, service: &Service, kind: FrontendKind, at: FrontendKey) -> bool {
        cluster.services_at(at.ip.to_std()).any(|other| {
            let listens = |p: &ServicePort| p.port.get() == at.port && p.protocol.number() == at.proto.0;
            let first = addresses(other, self.config.external_ips)
                .filter(|(_, ip)| *ip == at.ip)
                .map(|(kind, _)| kind)
                .min();
            other.key != service.key
                && other.is_proxied()
                && other.ports.iter().any(listens)
                && first.is_some_and(|first| (first, &other.key) < (kind, &service.key))
        })
    }

    /// The source ranges of the family; where it has none, everybody may come (kube-proxy keeps them by family). Where
    /// they cover this node, what it sends to the load balancer's address counts too, even with that address as its source
    /// (kube-proxy, `allowFromNode`).
    fn source_ranges(&self, service: &Service, balancer: Ip) -> Option<Arc<[Prefix]>> {
        let family = service
            .source_ranges
            .iter()
            .filter(|net| net.addr().is_ipv4() == balancer.is_v4());
        let mut ranges: Vec<Prefix> = family.clone().filter_map(|net| prefix(*net)).collect();
        if self
            .own_addresses
            .iter()
            .any(|own| ranges.iter().any(|r| r.contains(*own)))
        {
            ranges.push(Prefix::host(balancer));
        }
        (family.count() > 0).then(|| ranges.into())
    }

    fn answers(&self, cluster: &Cluster, service: &Service, port: &ServicePort, v4: bool) -> Answers {
        let node = &*self.config.name;
        let zone = self.own_node.as_deref().and_then(|node| node.zone());
        let endpoints = Endpoints::of(cluster, service, port, v4);
        let everywhere = Backends::new(endpoints.everywhere(node, zone), false);
        let wanted = [service.internal_policy, service.external_policy];
        let here = wanted
            .contains(&TrafficPolicy::Local)
            .then(|| Backends::new(endpoints.on(node), endpoints.are_usable()));
        Answers {
            draining: endpoints.others(&everywhere, here.as_ref()),
            everywhere,
            here,
        }
    }
}

/// Who answers at the frontends of one port, in one family.
struct Answers {
    everywhere: Backends,
    /// Where a traffic policy asks for it.
    here: Option<Backends>,
    draining: Box<[Backend]>,
}

impl Answers {
    fn frontend(&self, kind: FrontendKind, key: FrontendKey, name: &Arc<str>, service: &Service) -> Frontend {
        let policy = match kind {
            FrontendKind::ClusterIp => service.internal_policy,
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => service.external_policy,
        };
        let here = self.here.as_ref().filter(|_| policy == TrafficPolicy::Local);
        let mut frontend = Frontend::new(key, kind, Arc::clone(name), here.unwrap_or(&self.everywhere).clone());
        if here.is_some() && kind != FrontendKind::ClusterIp {
            frontend.inside = Some(self.everywhere.clone());
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
