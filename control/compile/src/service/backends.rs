//! Collects the endpoints of one port of a Service from all its slices, and chooses the ones that a traffic policy
//! allows.
//!
//! The choice is kube-proxy's (`pkg/proxy/topology.go`, `CategorizeEndpoints`): ready endpoints; if none is ready,
//! endpoints that terminate but still serve. Topology hints count if every ready endpoint has one and one of them names
//! this node or its zone. `trafficDistribution` needs no code here, because the controller that writes the slices turns
//! it into hints.

use heddle_model::{AddressType, Cluster, Endpoint, Protocol, Service, ServicePort};
use heddle_tables::{Backend, Backends};
use heddle_wire::Ip;

/// The endpoints of one port in one family, by address and port, without duplicates.
pub(crate) struct PortEndpoints<'a>(Vec<(Backend, &'a Endpoint)>);

/// The condition of an endpoint, the best first.
///
/// Slices overlap while an endpoint moves from one to another. If they contain the same endpoint in several conditions,
/// the best one counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    Ready,
    /// It terminates but still serves: used if none is ready.
    Fallback,
    Unusable,
}

impl Condition {
    const fn of(endpoint: &Endpoint) -> Self {
        if endpoint.ready {
            Self::Ready
        } else if endpoint.serving && endpoint.terminating {
            Self::Fallback
        } else {
            Self::Unusable
        }
    }
}

impl<'a> PortEndpoints<'a> {
    /// Collects the endpoints of one family.
    pub(crate) fn of(cluster: &'a Cluster, service: &Service, port: &ServicePort, v4: bool) -> Self {
        let family = if v4 { AddressType::V4 } else { AddressType::V6 };
        let slices = cluster
            .slices_of(&service.key)
            .filter(|s| s.address_type == family && s.is_proxied());
        let mut all: Vec<(Backend, &Endpoint)> = Vec::new();
        for slice in slices {
            let ports = slice
                .ports
                .iter()
                .filter(|p| p.name == port.name && p.protocol == port.protocol);
            for number in ports.filter_map(|p| p.port) {
                let backend = |e: &Endpoint| Backend {
                    ip: Ip::from(e.address),
                    port: number.get(),
                };
                all.extend(slice.endpoints.iter().map(|e| (backend(e), e)));
            }
        }
        all.sort_by_key(|(backend, e)| (*backend, Condition::of(e)));
        all.dedup_by_key(|(backend, _)| *backend);
        Self(all)
    }

    /// Returns true if any endpoint, wherever it is, can take connections.
    pub(crate) fn has_usable(&self) -> bool {
        self.0.iter().any(|(_, e)| Condition::of(e) != Condition::Unusable)
    }

    /// Returns the endpoints that the traffic policy `Cluster` chooses for a node in a zone.
    pub(crate) fn cluster_wide(&self, node: &str, zone: Option<&str>) -> Vec<Backend> {
        let for_node = |e: &Endpoint| e.hint_nodes.iter().any(|hint| **hint == *node);
        let for_zone = |e: &Endpoint| zone.is_some_and(|zone| e.hint_zones.iter().any(|hint| **hint == *zone));
        let ready = || self.0.iter().map(|(_, e)| *e).filter(|e| e.ready);
        if ready().any(for_node) && ready().all(|e| !e.hint_nodes.is_empty()) {
            self.best(|e| !e.ready || for_node(e))
        } else if ready().any(for_zone) && ready().all(|e| !e.hint_zones.is_empty()) {
            self.best(|e| !e.ready || for_zone(e))
        } else {
            self.best(|_| true)
        }
    }

    /// Returns the endpoints that the traffic policy `Local` chooses for a node.
    pub(crate) fn local_to(&self, node: &str) -> Vec<Backend> {
        self.best(|e| e.node.as_deref() == Some(node))
    }

    /// Returns the ready endpoints that `among` accepts, or else those that terminate but still serve.
    fn best(&self, among: impl Fn(&Endpoint) -> bool) -> Vec<Backend> {
        let in_condition = |wanted: Condition| -> Vec<Backend> {
            let found = self.0.iter().filter(|(_, e)| Condition::of(e) == wanted && among(e));
            found.map(|(backend, _)| *backend).collect()
        };
        let ready = in_condition(Condition::Ready);
        if ready.is_empty() {
            in_condition(Condition::Fallback)
        } else {
            ready
        }
    }

    /// Returns the endpoints that are neither in `cluster_wide` nor in `local` but keep their connections, sorted.
    ///
    /// A UDP client never ends by itself. As kube-proxy does, its flow leaves an endpoint that no longer serves as soon as
    /// another endpoint can take it.
    pub(crate) fn draining(
        &self,
        cluster_wide: &Backends,
        local: Option<&Backends>,
        protocol: Protocol,
    ) -> Box<[Backend]> {
        let moves = protocol == Protocol::Udp && self.has_usable();
        let keeps = |e: &Endpoint| !moves || e.ready || e.serving;
        let chosen = |b: &Backend| {
            let among = |backends: &Backends| backends.list().binary_search(b).is_ok();
            among(cluster_wide) || local.is_some_and(among)
        };
        let others = self.0.iter().filter(|(backend, e)| keeps(e) && !chosen(backend));
        others.map(|(backend, _)| *backend).collect()
    }
}
