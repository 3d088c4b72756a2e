//! Who is who for people: addresses, ports of the dataplane and rule numbers as the objects of now name them.

use heddle_model::{Cluster, ObjectKey};
use heddle_proto::{End, Named, Policy, QueryError};
use heddle_tables::{Direction, EndpointId, Place, PolicyKind, Provenance, ServiceLookup, Snapshot};
use heddle_wire::{Ip, Proto};

use super::{ReadModel, View};

impl View {
    /// Returns the pod behind an attachment.
    pub(super) fn pod_of(&self, endpoint: EndpointId) -> Option<Named> {
        let pod = self.attachment(endpoint)?.pod.as_ref()?;
        Some(Named {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        })
    }
}

impl ReadModel {
    /// Returns the addresses and attachments of the pod that a query names, if it names one.
    ///
    /// # Errors
    /// The pod is known neither as an object nor as an attachment.
    pub(super) fn wanted_pod(&self, view: &View, pod: Option<&Named>) -> Result<Option<Whereabouts>, QueryError> {
        let find = |pod| self.whereabouts(view, pod).ok_or_else(|| unknown("pod", pod));
        pod.map(find).transpose()
    }

    fn whereabouts(&self, view: &View, pod: &Named) -> Option<Whereabouts> {
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
        Some(Whereabouts {
            addresses: attached.chain(status).map(Ip::from).collect(),
            endpoints: own.iter().map(|attachment| EndpointId(attachment.attachment)).collect(),
        })
    }

    /// Names one end of a packet or connection; the port of protocols that have ports.
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

fn service_at(cluster: &Cluster, snapshot: &Snapshot, ip: Ip, port: u16, proto: Proto) -> Option<Named> {
    match snapshot.frontend(ip, proto, port) {
        ServiceLookup::Frontend(frontend) => service_of(&frontend.name),
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

/// Where a pod is.
#[derive(Debug)]
pub(super) struct Whereabouts {
    pub(super) addresses: Vec<Ip>,
    pub(super) endpoints: Vec<EndpointId>,
}

fn named(key: &ObjectKey) -> Option<Named> {
    Named::new(&key.namespace, &key.name)
}

/// The Service of a frontend, whose name is `namespace/name` and perhaps `:port name`.
pub(super) fn service_name(frontend: &str) -> &str {
    frontend.split_once(':').map_or(frontend, |(service, _)| service)
}

/// The same, taken apart.
pub(super) fn service_of(frontend: &str) -> Option<Named> {
    service_name(frontend).parse().ok()
}

/// Returns whether a policy decided.
pub(super) const fn is_policy(decision: &Provenance) -> bool {
    !matches!(
        decision,
        Provenance::NoPolicy | Provenance::OwnNode | Provenance::Itself | Provenance::NotReady
    )
}

/// A decision as messages have it; `None` for what no policy decided.
pub(super) fn policy(decision: &Provenance) -> Option<Policy> {
    let made = |kind: PolicyKind, namespace: &str, name: &str, direction: Direction| Policy {
        kind: kind.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        tier: String::new(),
        direction: direction.as_str().to_owned(),
        rule: None,
        rule_name: String::new(),
        says: decision.to_string(),
    };
    match decision {
        Provenance::NoPolicy | Provenance::OwnNode | Provenance::Itself | Provenance::NotReady => None,
        Provenance::Rule {
            kind,
            namespace,
            name,
            direction,
            rule,
        } => Some(Policy {
            rule: Some(*rule),
            ..made(*kind, namespace, name, *direction)
        }),
        Provenance::ClusterRule {
            tier,
            name,
            direction,
            rule,
            title,
        } => Some(Policy {
            tier: tier.as_str().to_owned(),
            rule: Some(*rule),
            rule_name: title.to_string(),
            ..made(PolicyKind::ClusterNetworkPolicy, "", name, *direction)
        }),
        Provenance::DefaultDeny {
            namespace,
            name,
            direction,
        } => Some(made(PolicyKind::NetworkPolicy, namespace, name, *direction)),
        Provenance::Refused {
            kind,
            namespace,
            name,
            direction,
        } => Some(made(*kind, namespace, name, *direction)),
    }
}

#[cfg(test)]
mod tests {
    use heddle_tables::PolicyTier;

    use super::*;

    #[test]
    fn frontends_are_ports_of_services() {
        let name = |frontend| service_of(frontend).map(|service| service.to_string());
        assert_eq!(name("shop/web"), Some("shop/web".to_owned()));
        assert_eq!(name("shop/web:http"), Some("shop/web".to_owned()));
        assert_eq!(name("web"), None);
    }

    #[test]
    fn a_policy_is_told_by_kind_namespace_name_and_rule() {
        let told = policy(&Provenance::DefaultDeny {
            namespace: "shop".into(),
            name: "db".into(),
            direction: Direction::Ingress,
        })
        .unwrap();
        assert_eq!(
            (
                told.kind.as_str(),
                told.namespace.as_str(),
                told.name.as_str(),
                told.rule
            ),
            ("NetworkPolicy", "shop", "db", None)
        );
        assert_eq!(told.says, "default deny because shop/db selects this pod for ingress");
        let told = policy(&Provenance::ClusterRule {
            tier: PolicyTier::Admin,
            name: "no-web".into(),
            direction: Direction::Egress,
            rule: 3,
            title: "x".into(),
        })
        .unwrap();
        assert_eq!(
            (
                told.kind.as_str(),
                told.tier.as_str(),
                told.rule,
                told.rule_name.as_str()
            ),
            ("ClusterNetworkPolicy", "Admin", Some(3), "x")
        );
        assert_eq!((told.direction.as_str(), told.namespace.as_str()), ("egress", ""));
        assert_eq!(policy(&Provenance::OwnNode), None);
    }
}
