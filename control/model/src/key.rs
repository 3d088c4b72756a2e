//! Names of objects: kind, namespace and name.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::labels::is_dns_subdomain;

/// The kinds of objects that heddle reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `v1` `Node`
    Node,
    /// `networking.k8s.io/v1` `ServiceCIDR`
    #[serde(rename = "ServiceCIDR")]
    ServiceCidr,
    /// `v1` `Namespace`
    Namespace,
    /// `v1` `Pod`
    Pod,
    /// `v1` `Service`
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`
    EndpointSlice,
    /// `networking.k8s.io/v1` `NetworkPolicy`
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` `ClusterNetworkPolicy`
    ClusterNetworkPolicy,
}

impl Kind {
    /// Every kind, in an order in which later ones refer to earlier ones.
    pub const ALL: [Kind; 8] = [
        Kind::Node,
        Kind::ServiceCidr,
        Kind::Namespace,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ];

    /// Returns the API's spelling of the kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::ServiceCidr => "ServiceCIDR",
            Kind::Namespace => "Namespace",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// Returns true if objects of this kind live in a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Kind::Node | Kind::ServiceCidr | Kind::Namespace | Kind::ClusterNetworkPolicy
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `metadata.namespace` and `metadata.name`. Objects without a namespace, such as nodes, have an empty one.
///
/// Cheap to clone. Ordered by namespace, then name, so that a namespace is a range of an ordered map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// `metadata.namespace`, empty for objects without one.
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Returns the key of an object in a namespace.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> ObjectKey {
        ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Returns the key of an object without a namespace.
    #[must_use]
    pub fn cluster(name: impl Into<Arc<str>>) -> ObjectKey {
        ObjectKey::new("", name)
    }

    /// Returns true if an object of this kind can have these names: a namespace if the kind has one, both of the syntax of
    /// the API.
    #[must_use]
    pub fn is_legal_for(&self, kind: Kind) -> bool {
        let has_namespace = !self.namespace.is_empty() && is_dns_subdomain(&self.namespace);
        is_dns_subdomain(&self.name)
            && match kind.is_namespaced() {
                true => has_namespace,
                false => self.namespace.is_empty(),
            }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ObjectKey, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Ok(match text.split_once('/') {
            Some((namespace, name)) => ObjectKey::new(namespace, name),
            None => ObjectKey::cluster(&*text),
        })
    }
}

/// An object by kind and key: `NetworkPolicy shop/db`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The object's kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl ObjectRef {
    /// Returns the reference to an object.
    #[must_use]
    pub const fn new(kind: Kind, key: ObjectKey) -> ObjectRef {
        ObjectRef { kind, key }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}
