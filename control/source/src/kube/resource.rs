//! The API's names of the kinds.

use heddle_model::Kind;

/// A kind of objects in one version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
}

impl Resource {
    /// Returns the versions in which a kind may be served, the preferred one first.
    pub(super) fn of(kind: Kind) -> Vec<Self> {
        let (group, versions, plural): (_, &[&str], _) = match kind {
            Kind::Node => ("", &["v1"], "nodes"),
            Kind::ServiceCidr => ("networking.k8s.io", &["v1", "v1beta1"], "servicecidrs"),
            Kind::Namespace => ("", &["v1"], "namespaces"),
            Kind::Pod => ("", &["v1"], "pods"),
            Kind::Service => ("", &["v1"], "services"),
            Kind::EndpointSlice => ("discovery.k8s.io", &["v1"], "endpointslices"),
            Kind::NetworkPolicy => ("networking.k8s.io", &["v1"], "networkpolicies"),
            Kind::ClusterNetworkPolicy => ("policy.networking.k8s.io", &["v1alpha2"], "clusternetworkpolicies"),
        };
        let in_version = |version: &&'static str| Self {
            kind,
            group,
            version,
            plural,
        };
        versions.iter().map(in_version).collect()
    }

    /// Returns `GROUP/VERSION`, or the version alone for the core group.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Returns the name that RBAC rules and `kubectl` have, as `networkpolicies.networking.k8s.io`.
    pub(super) fn full_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_apis() {
        for kind in Kind::ALL {
            for resource in Resource::of(kind) {
                assert_eq!(resource.kind, kind);
                assert_eq!(
                    resource.plural,
                    match kind {
                        Kind::NetworkPolicy => "networkpolicies".to_owned(),
                        Kind::ClusterNetworkPolicy => "clusternetworkpolicies".to_owned(),
                        other => format!("{}s", other.as_str().to_lowercase()),
                    }
                );
            }
        }
        let [policy] = &Resource::of(Kind::NetworkPolicy)[..] else {
            panic!("one version")
        };
        assert_eq!(policy.api_version(), "networking.k8s.io/v1");
        assert_eq!(policy.full_name(), "networkpolicies.networking.k8s.io");
        assert_eq!(Resource::of(Kind::Pod)[0].api_version(), "v1");
    }
}
