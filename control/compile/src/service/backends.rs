//! The endpoints of one port of a Service, from all its slices, and which of them a traffic policy leaves.
//!
//! As kube-proxy does (`pkg/proxy/topology.go`, `CategorizeEndpoints`): ready endpoints; where none is ready, those that
//! terminate but still serve. Hints count where every ready endpoint has one and one of them is for this node or its zone.
//! `trafficDistribution` needs nothing more: who writes the slices makes hints of it.

use heddle_model::{AddressType, Cluster, Endpoint, Service, ServicePort};
use heddle_tables::{Backend, Backends};
use heddle_wire::Ip;

/// The endpoints of one port, each once, by address and port.
pub(crate) struct Endpoints<'a>(Vec<(Backend, &'a Endpoint)>);

/// The best of several that say something else of the same address counts: slices overlap while endpoints move from one
/// to another.
const fn rank(e: &Endpoint) -> u8 {
    if e.ready {
        0
    } else if is_fallback(e) {
        1
    } else {
        2
    }
}

const fn is_fallback(e: &Endpoint) -> bool {
    e.serving && e.terminating
}

impl<'a> Endpoints<'a> {
    /// Those of one family.
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
                let to = |e: &Endpoint| Backend {
                    ip: Ip::from(e.address),
                    port: number.get(),
                };
                all.extend(slice.endpoints.iter().map(|e| (to(e), e)));
            }
        }
        all.sort_by_key(|(backend, e)| (*backend, rank(e)));
        all.dedup_by_key(|(backend, _)| *backend);
        Self(all)
    }

    /// Whether there is any that connections may go to, wherever it is.
    pub(crate) fn are_usable(&self) -> bool {
        self.0.iter().any(|(_, e)| rank(e) < 2)
    }

    /// Those that the traffic policy `Cluster` leaves to a node in a zone.
    pub(crate) fn everywhere(&self, node: &str, zone: Option<&str>) -> Vec<Backend> {
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

    /// Those that the traffic policy `Local` leaves to a node.
    pub(crate) fn on(&self, node: &str) -> Vec<Backend> {
        self.best(|e| e.node.as_deref() == Some(node))
    }

    /// The ready ones among some, or else those that terminate but serve.
    fn best(&self, among: impl Fn(&Endpoint) -> bool) -> Vec<Backend> {
        let those = |wanted: u8| -> Vec<Backend> {
            let those = self.0.iter().filter(|(_, e)| rank(e) == wanted && among(e));
            those.map(|(backend, _)| *backend).collect()
        };
        let ready = those(0);
        if ready.is_empty() { those(1) } else { ready }
    }

    /// Those that get no new connections here, sorted.
    pub(crate) fn others(&self, everywhere: &Backends, here: Option<&Backends>) -> Box<[Backend]> {
        let chosen = |b: &Backend| {
            let among = |backends: &Backends| backends.list().binary_search(b).is_ok();
            among(everywhere) || here.is_some_and(among)
        };
        let others = self.0.iter().map(|(backend, _)| *backend).filter(|b| !chosen(b));
        others.collect()
    }
}
