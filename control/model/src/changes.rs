//! What an event changed.

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
    /// Its namespace and name.
    pub key: ObjectKey,
    /// What it was; `None` when it is new.
    pub before: Option<Arc<T>>,
    /// What it is; `None` when it is gone.
    pub after: Option<Arc<T>>,
}

impl<T> Delta<T> {
    /// It was not there before.
    #[must_use]
    pub const fn is_added(&self) -> bool {
        self.before.is_none()
    }

    /// It is not there any more.
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
    /// Which object it is.
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

/// What an event, or several in a row, changed in the [`Cluster`](crate::Cluster).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects in the order in which they changed. After [`extend`](Changes::extend) the same object may come twice;
    /// the later `before` is then the earlier `after`.
    ///
    /// Pods that exchanged their addresses change together: who keeps a table of addresses takes away all that
    /// `before` had first, or asks [`Cluster::pod_at`](crate::Cluster::pod_at) who has an address now.
    pub objects: Vec<Change>,
    /// The list of rejections changed.
    pub rejections: bool,
    /// With this, every kind has synced: from now on the state is complete.
    pub synced: bool,
}

impl Changes {
    /// Whether nothing changed at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objects.is_empty() && !self.rejections && !self.synced
    }

    /// Adds what a later event changed.
    pub fn extend(&mut self, later: Changes) {
        self.objects.extend(later.objects);
        self.rejections |= later.rejections;
        self.synced |= later.synced;
    }
}
