//! Services: their frontends, and which endpoints each may choose from.
//!
//! As kube-proxy does (`pkg/proxy/topology.go`, `categorizeEndpoints`): ready endpoints; where none is ready, those that
//! terminate but still serve. With `internalTrafficPolicy: Local` the same among the endpoints of this node alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{AddressType, Cluster, Endpoint, ObjectKey, Service, ServicePort, TrafficPolicy};
use heddle_tables::{Backend, Backends, Frontend, FrontendKey, FrontendKind, ServiceLookup};
use heddle_wire::{Ip, Proto};

use crate::compiler::{Compiler, RemovedBackend};

/// What stands in the tables for each Service.
pub(crate) type Services = BTreeMap<ObjectKey, BTreeSet<FrontendKey>>;

impl Compiler {
    /// Makes the frontends of a Service anew.
    pub(crate) fn settle_service(&mut self, cluster: &Cluster, key: &ObjectKey) {
        let mut made = BTreeMap::new();
        if let Some(service) = cluster.service(key).filter(|s| s.is_proxied()) {
            for port in &service.ports {
                for addr in service.cluster_ips.get() {
                    let frontend = self.frontend(cluster, service, port, Ip::from(*addr));
                    made.entry(frontend.key).or_insert(frontend);
                }
            }
        }
        let before = self.services.remove(key).unwrap_or_default();
        for gone in before.iter().filter(|key| !made.contains_key(*key)) {
            // Another Service may have taken the address over within the same changes.
            if self.frontend_owner.get(gone) == Some(key) {
                self.note_removed(*gone, &[]);
                self.tables.remove_frontend(*gone);
                self.frontend_owner.remove(gone);
            }
        }
        if made.is_empty() {
            return;
        }
        self.services.insert(key.clone(), made.keys().copied().collect());
        for (at, frontend) in made {
            self.note_removed(at, frontend.backends.list());
            self.tables.set_frontend(Arc::new(frontend));
            self.frontend_owner.insert(at, key.clone());
        }
    }

    /// Notes the backends of a frontend that are not among those that it has from now on.
    fn note_removed(&mut self, frontend: FrontendKey, now: &[Backend]) {
        let lookup = self
            .tables
            .current()
            .frontend(frontend.ip, frontend.proto, frontend.port);
        if let ServiceLookup::Frontend(before) = lookup {
            let gone = before.backends.list().iter().filter(|b| now.binary_search(b).is_err());
            self.removed_backends.extend(gone.map(|backend| RemovedBackend {
                frontend,
                backend: *backend,
            }));
        }
    }

    fn frontend(&self, cluster: &Cluster, service: &Service, port: &ServicePort, ip: Ip) -> Frontend {
        let name = if port.name.is_empty() {
            service.key.to_string()
        } else {
            format!("{}:{}", service.key, port.name)
        };
        Frontend {
            key: FrontendKey {
                ip,
                proto: Proto(port.protocol.number()),
                port: port.port.get(),
            },
            kind: FrontendKind::ClusterIp,
            name: name.into(),
            backends: self.backends(cluster, service, port, ip.is_v4()),
        }
    }

    fn backends(&self, cluster: &Cluster, service: &Service, port: &ServicePort, v4: bool) -> Backends {
        let family = if v4 { AddressType::V4 } else { AddressType::V6 };
        let slices = cluster
            .slices_of(&service.key)
            .filter(|s| s.address_type == family && s.proxy_name.is_none());
        let mut all: Vec<(&Endpoint, Backend)> = Vec::new();
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
                all.extend(slice.endpoints.iter().map(|e| (e, to(e))));
            }
        }
        let local = |e: &Endpoint| e.node.as_deref() == Some(&*self.config.name);
        let everywhere = usable(&all, |_| true);
        match service.internal_policy {
            TrafficPolicy::Cluster => Backends::new(everywhere, false),
            TrafficPolicy::Local => Backends::new(usable(&all, local), !everywhere.is_empty()),
        }
    }
}

/// The ready endpoints among some, or else those that terminate but serve.
fn usable(all: &[(&Endpoint, Backend)], among: impl Fn(&Endpoint) -> bool) -> Vec<Backend> {
    let those = |wanted: fn(&Endpoint) -> bool| -> Vec<Backend> {
        all.iter()
            .filter(|(e, _)| among(e) && wanted(e))
            .map(|(_, backend)| *backend)
            .collect()
    };
    let ready = those(|e| e.ready);
    if ready.is_empty() {
        those(|e| e.serving && e.terminating)
    } else {
        ready
    }
}
