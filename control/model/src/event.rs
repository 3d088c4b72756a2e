//! The events that a source of objects reports.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster_policy::ClusterNetworkPolicy;
use crate::key::{Kind, ObjectKey, ObjectRef};
use crate::node::{Namespace, Node, ServiceCidr};
use crate::pod::Pod;
use crate::policy::NetworkPolicy;
use crate::service::Service;
use crate::slice::EndpointSlice;

/// An object of any kind, validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "object")]
#[expect(missing_docs, reason = "each variant is the kind of its name")]
pub enum Object {
    Node(Arc<Node>),
    ServiceCidr(Arc<ServiceCidr>),
    Namespace(Arc<Namespace>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    NetworkPolicy(Arc<NetworkPolicy>),
    ClusterNetworkPolicy(Arc<ClusterNetworkPolicy>),
}

impl Object {
    /// Returns the object's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Object::Node(_) => Kind::Node,
            Object::ServiceCidr(_) => Kind::ServiceCidr,
            Object::Namespace(_) => Kind::Namespace,
            Object::Pod(_) => Kind::Pod,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::NetworkPolicy(_) => Kind::NetworkPolicy,
            Object::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
        }
    }

    /// Returns the object's namespace and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Object::Node(node) => ObjectKey::cluster(Arc::clone(&node.name)),
            Object::ServiceCidr(cidr) => ObjectKey::cluster(Arc::clone(&cidr.name)),
            Object::Namespace(namespace) => ObjectKey::cluster(Arc::clone(&namespace.name)),
            Object::Pod(pod) => pod.key.clone(),
            Object::Service(service) => service.key.clone(),
            Object::EndpointSlice(slice) => slice.key.clone(),
            Object::NetworkPolicy(policy) => policy.key.clone(),
            Object::ClusterNetworkPolicy(policy) => ObjectKey::cluster(Arc::clone(&policy.name)),
        }
    }

    /// Gives a policy of either kind another name; other objects keep theirs.
    pub fn rename(&mut self, name: &str) {
        match self {
            Object::NetworkPolicy(policy) => Arc::make_mut(policy).key.name = name.into(),
            Object::ClusterNetworkPolicy(policy) => Arc::make_mut(policy).name = name.into(),
            Object::Node(_)
            | Object::ServiceCidr(_)
            | Object::Namespace(_)
            | Object::Pod(_)
            | Object::Service(_)
            | Object::EndpointSlice(_) => {}
        }
    }

    /// Returns the object's kind and key.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        ObjectRef::new(self.kind(), self.key())
    }
}

macro_rules! object_from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Object {
                Object::$kind(Arc::new(object))
            }
        }
    )*};
}

object_from!(
    Node,
    ServiceCidr,
    Namespace,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    ClusterNetworkPolicy
);

/// An event of a source of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object exists in this version. This also ends a rejection of the object, unless it is a
    /// [duplicate](Cause::Duplicate), or about [a part](Cause::Ignored) of it.
    Upsert {
        /// Where it was read: a file's name, or the API server.
        origin: Arc<str>,
        /// The object.
        object: Object,
    },
    /// An object is gone from every file, whether it was accepted or refused.
    Delete(ObjectRef),
    /// An object, a document or a file was refused.
    Rejected(Rejection),
    /// A refused object, document or file is good again, or gone.
    Restored(RejectionKey),
    /// All objects of a kind that existed at the start have been reported.
    Synced(Kind),
}

/// The subject of a rejection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// An object whose kind and name could be read.
    Object(ObjectRef),
    /// A document without a readable kind and name, by its number in the file, from 1.
    Document(u32),
    /// The whole file or source.
    Source,
}

impl Subject {
    /// Returns true for an object whose kind and name could be read.
    #[must_use]
    pub const fn is_object(&self) -> bool {
        matches!(self, Subject::Object(_))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Object(object) => object.fmt(f),
            Subject::Document(number) => write!(f, "document {number}"),
            Subject::Source => f.write_str("the whole file"),
        }
    }
}

/// The reason of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// It could not be read, or is neither YAML nor JSON.
    Unreadable,
    /// A field has a value that it cannot have.
    Invalid,
    /// The same object stands in another file or document, which counts.
    Duplicate,
    /// A part of the object has a value that it cannot have. The part is ignored, and the rest is used.
    Ignored,
    /// It claims an address or a node port that another object has.
    Conflict,
}

/// The key of a rejection. There is at most one for each subject in each file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RejectionKey {
    /// The refused object, document or file.
    pub subject: Subject,
    /// Where it was read: a file's name, or the API server.
    pub origin: Arc<str>,
}

/// A refused object, document or file, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Where it was read: a file's name, or the API server.
    pub origin: Arc<str>,
    /// The line in that file, from 1, if it is known.
    pub line: Option<u32>,
    /// The refused object, document or file.
    pub subject: Subject,
    /// The reason.
    pub cause: Cause,
    /// The field's path, as `spec.ports[0].port`; empty if no single field is wrong.
    pub field: String,
    /// The field's value, shortened; empty if there is none.
    pub value: String,
    /// The fault and the remedy.
    pub message: String,
    /// For a policy of either kind: a policy that takes its place and denies, unless an earlier version was good. For a
    /// document or a file that may have policies: one that denies what they may select, as long as this rejection lasts.
    #[serde(skip)]
    pub closes: Option<Object>,
}

impl Rejection {
    /// Returns the rejection's key.
    #[must_use]
    pub fn key(&self) -> RejectionKey {
        RejectionKey {
            origin: Arc::clone(&self.origin),
            subject: self.subject.clone(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.subject)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        if !self.value.is_empty() {
            write!(f, ": {}", self.value)?;
        }
        write!(f, ": {}", self.message)
    }
}
