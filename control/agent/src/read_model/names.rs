//! The pods, Services and nodes behind addresses, by the objects and tables at the time of the query.

use heddle_model::{Cluster, ObjectKey};
use heddle_proto::{End, Named, QueryError};
use heddle_tables::{EndpointId, Frontend, FrontendKind, Place, ServiceLookup, Snapshot};
use heddle_wire::{Ip, Proto};

use super::model::ReadModel;
use super::view::View;

impl ReadModel {
    /// Returns the addresses and attachments of the pod that a query names, if it names one.
    ///
    /// # Errors
    /// The pod is known neither as an object nor as an attachment.
    pub(super) fn locate_pod(&self, view: &View, pod: Option<&Named>) -> Result<Option<PodLocation>, QueryError> {
        let find = |pod| self.find_pod(view, pod).ok_or_else(|| unknown("pod", pod));
        pod.map(find).transpose()
    }

    /// Finds a pod among the cluster's objects and the attachments.
    fn find_pod(&self, view: &View, pod: &Named) -> Option<PodLocation> {
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        let object = self.cluster().pod(&key).cloned();
        let attachments = view.attachments.iter();
        let own: Vec<_> = attachments
            .filter(|attachment| {
                let of = attachment.pod.as_ref();
                of.is_some_and(|of| of.namespace == pod.namespace && of.name == pod.name)
            })
            .collect();
        if object.is_none() && own.is_empty() {
            return None;
        }
        let attached = own.iter().flat_map(|attachment| attachment.addresses.iter().copied());
        let status = object.iter().flat_map(|pod| pod.own_ips().iter().copied());
        Some(PodLocation {
            addresses: attached.chain(status).map(Ip::from).collect(),
            endpoints: own.iter().map(|attachment| EndpointId(attachment.attachment)).collect(),
        })
    }

    /// Describes one end of a packet or connection: its address, its port if the protocol has ports, and the pod, the
    /// Service or the node that owns the address.
    pub(super) fn end(&self, view: &View, ip: Ip, port: u16, proto: Proto) -> End {
        let address = ip.to_std();
        let mut end = End {
            address,
            port: proto.has_ports().then_some(port),
            pod: None,
            service: None,
            node: None,
        };
        let cluster = self.cluster();
        let snapshot = view.snapshot.as_ref();
        match snapshot.map(|snapshot| snapshot.address(ip).place) {
            Some(Place::Local(id)) => end.pod = view.pod_of(id),
            Some(Place::Host) => end.node = Some(self.settings.node.clone()),
            _ => end.pod = cluster.pod_at(address).and_then(|pod| named(&pod.key)),
        }
        if end.pod.is_none() {
            end.service = snapshot.and_then(|snapshot| service_at(&cluster, snapshot, ip, port, proto));
        }
        if end.pod.is_none() && end.service.is_none() && end.node.is_none() {
            end.node = cluster.node_at(address).map(|node| node.name.to_string());
        }
        end
    }
}

/// Returns the Service that owns an address and port, or the first Service at the address if none has the port.
fn service_at(cluster: &Cluster, snapshot: &Snapshot, ip: Ip, port: u16, proto: Proto) -> Option<Named> {
    match snapshot.frontend(ip, proto, port) {
        ServiceLookup::Frontend(frontend) => service_of(frontend),
        ServiceLookup::NoSuchPort => {
            let first = cluster.services_at(ip.to_std()).next();
            first.and_then(|service| named(&service.key))
        }
        ServiceLookup::NotAService => None,
    }
}

/// Returns the error for an object that a query names and that does not exist.
pub(super) fn unknown(kind: &str, name: &impl std::fmt::Display) -> QueryError {
    QueryError::not_found(format!("no {kind} {name} is known to this agent"))
}

/// The addresses and attachments of one pod, by which queries select packets and connections.
#[derive(Debug)]
pub(super) struct PodLocation {
    pub(super) addresses: Vec<Ip>,
    pub(super) endpoints: Vec<EndpointId>,
}

/// Converts an object's key to a name for messages.
fn named(key: &ObjectKey) -> Option<Named> {
    Named::new(&key.namespace, &key.name)
}

/// Returns the name of a frontend's Service; `None` for a host port, which belongs to a pod. The name of a Service's frontend is
/// `namespace/name` or `namespace/name:port`.
pub(super) fn service_name(frontend: &Frontend) -> Option<&str> {
    let name = &*frontend.name;
    let is_service = frontend.kind != FrontendKind::HostPort;
    is_service.then(|| name.split_once(':').map_or(name, |(service, _)| service))
}

/// Returns the Service of a frontend as namespace and name.
pub(super) fn service_of(frontend: &Frontend) -> Option<Named> {
    service_name(frontend)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use heddle_tables::{Backends, FrontendKey};

    use super::*;

    #[test]
    fn frontends_are_ports_of_services() {
        let name = |kind, frontend: &str| {
            let key = FrontendKey::node_port(true, Proto::TCP, 80);
            service_of(&Frontend::new(key, kind, frontend, Backends::new([], false))).map(|service| service.to_string())
        };
        let node_port = FrontendKind::NodePort;
        assert_eq!(name(node_port, "shop/web"), Some("shop/web".to_owned()));
        assert_eq!(name(node_port, "shop/web:http"), Some("shop/web".to_owned()));
        assert_eq!(name(node_port, "web"), None);
        assert_eq!(name(FrontendKind::HostPort, "shop/web-1"), None);
    }
}
