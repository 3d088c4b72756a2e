//! The changes that an event makes.

use std::sync::Arc;

use crate::cluster_policy::ClusterNetworkPolicy;
use crate::key::{Kind, ObjectKey, ObjectRef};
use crate::node::{Namespace, Node, ServiceCidr};
use crate::pod::Pod;
use crate::policy::NetworkPolicy;
use crate::service::Service;
use crate::slice::EndpointSlice;

/// An object before and after. Never both absent, never both equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta<T> {
    /// The object's namespace and name.
    pub key: ObjectKey,
    /// The version before; `None` if the object is new.
    pub before: Option<Arc<T>>,
    /// The version after; `None` if the object is gone.
    pub after: Option<Arc<T>>,
}

impl<T> Delta<T> {
    /// Returns true if the object is new.
    #[must_use]
    pub const fn is_added(&self) -> bool {
        self.before.is_none()
    }

    /// Returns true if the object is gone.
    #[must_use]
    pub const fn is_removed(&self) -> bool {
        self.after.is_none()
    }
}

/// One object that was added, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the kind of its name")]
pub enum Change {
    Node(Delta<Node>),
    ServiceCidr(Delta<ServiceCidr>),
    Namespace(Delta<Namespace>),
    Pod(Delta<Pod>),
    Service(Delta<Service>),
    EndpointSlice(Delta<EndpointSlice>),
    NetworkPolicy(Delta<NetworkPolicy>),
    ClusterNetworkPolicy(Delta<ClusterNetworkPolicy>),
}

impl Change {
    /// Returns the object's kind and key.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        let (kind, key) = match self {
            Change::Node(delta) => (Kind::Node, &delta.key),
            Change::ServiceCidr(delta) => (Kind::ServiceCidr, &delta.key),
            Change::Namespace(delta) => (Kind::Namespace, &delta.key),
            Change::Pod(delta) => (Kind::Pod, &delta.key),
            Change::Service(delta) => (Kind::Service, &delta.key),
            Change::EndpointSlice(delta) => (Kind::EndpointSlice, &delta.key),
            Change::NetworkPolicy(delta) => (Kind::NetworkPolicy, &delta.key),
            Change::ClusterNetworkPolicy(delta) => (Kind::ClusterNetworkPolicy, &delta.key),
        };
        ObjectRef::new(kind, key.clone())
    }
}

/// The changes that an event, or several in a row, made in the [`Cluster`](crate::Cluster).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects in the order in which they changed. After [`extend`](Changes::extend) the same object may come twice;
    /// the later `before` is then the earlier `after`.
    ///
    /// Several pods may have one address, so a table of addresses looks the holder up with
    /// [`Cluster::pod_at`](crate::Cluster::pod_at), for each address of `before` and `after`.
    pub objects: Vec<Change>,
    /// The list of rejections changed.
    pub rejections: bool,
    /// Every kind has synced with this change: the state is complete from now on.
    pub synced: bool,
}

impl Changes {
    /// Returns true if nothing changed at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objects.is_empty() && !self.rejections && !self.synced
    }

    /// Adds the changes of a later event.
    pub fn extend(&mut self, later: Changes) {
        self.objects.extend(later.objects);
        self.rejections |= later.rejections;
        self.synced |= later.synced;
    }
}
