//! Decodes a Kubernetes object from JSON into an object of the model, or refuses it.
//!
//! Only the fields that heddle uses are read, so that an object stays usable if it has fields of a newer API, or malformed fields
//! that a dataplane does not need. An entry of a status that the API does not check is ignored with a note if it is bad, and
//! labels that cannot be read are kept as unreadable. These fields are checked as the API server checks them, because manifests in a folder
//! have not passed an API server. No JSON makes the decoder panic.

mod cluster_policy;
mod flannel;
mod guess;
mod meta;
mod net;
mod node;
mod objects;
pub(crate) mod parts;
mod pod;
mod policy;
mod selector;
mod service;
mod slice;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use heddle_model::{Cause, Kind, Object, ObjectRef, Rejection, Subject};
use serde_json::Value;

pub(crate) use cluster_policy::closing_everything;
use meta::Meta;
use node::{Fault, Node};

/// The result of decoding a JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An object of a kind that heddle reads.
    Object(Object),
    /// An object whose odd parts were ignored, because the API does not check them and they have values that they cannot have.
    Partial(Object, Box<Refusal>),
    /// An object of another kind, such as `apps/v1 Deployment`.
    Other(String),
}

/// The reason why a JSON value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value}: {message}")]
pub struct Refusal {
    /// The object, if its kind and name can be read.
    pub object: Option<ObjectRef>,
    /// The field's path.
    pub field: String,
    /// The field's value, shortened; empty when it is missing.
    pub value: String,
    /// The fault and the remedy.
    pub message: String,
    /// A policy that denies, in place of a refused policy of either kind. Without `object`, its name is empty.
    pub closes: Option<Box<Object>>,
}

impl Refusal {
    /// Returns the rejection that a source reports of an ignored part of an object.
    #[must_use]
    pub fn into_note(self, origin: &Arc<str>, line: Option<u32>) -> Rejection {
        Rejection {
            cause: Cause::Ignored,
            ..self.into_rejection(origin, 0, line)
        }
    }

    /// Returns the rejection that a source reports. `document` counts from 1 in the file.
    #[must_use]
    pub fn into_rejection(mut self, origin: &Arc<str>, document: u32, line: Option<u32>) -> Rejection {
        if self.object.is_none()
            && let Some(closes) = &mut self.closes
        {
            // No object can have this name, so the closing policy is never in another one's place.
            closes.rename(&format!("{origin}#{document}"));
        }
        Rejection {
            origin: Arc::clone(origin),
            line,
            subject: self.object.map_or(Subject::Document(document), Subject::Object),
            cause: Cause::Invalid,
            field: self.field,
            value: self.value,
            message: self.message,
            closes: self.closes.map(|object| *object),
        }
    }
}

/// Decodes one object. Lists must be split by [`unlist`] before.
///
/// # Errors
/// Names the object and the field that is wrong, with its value. Objects of other kinds are no error.
pub fn decode(value: &Value) -> Result<Decoded, Refusal> {
    let root = Node(value);
    let refuse = |object: Option<ObjectRef>, closes, fault: Fault<'_>| Refusal {
        object,
        field: fault.path(value),
        value: fault.value(),
        message: fault.message,
        closes,
    };
    let (kind, meta) = match header(root) {
        Ok(Header::Ours(kind, meta)) => (kind, meta),
        Ok(Header::Other(name)) => return Ok(Decoded::Other(name)),
        Err(fault) => return Err(refuse(None, guess::closing(value).map(Box::new), fault)),
    };
    let object = match kind.1 {
        // An unknown version of the API must not be decoded as a known one.
        Some(fault) => Err(fault),
        None => match kind.0 {
            Kind::Node => objects::node(root, &meta).map(Object::from),
            Kind::ServiceCidr => objects::service_cidr(root, &meta).map(Object::from),
            Kind::Namespace => objects::namespace(root, &meta).map(Object::from),
            Kind::Pod => pod::pod(root, &meta).map(Object::from),
            Kind::Service => service::service(root, &meta).map(Object::from),
            Kind::EndpointSlice => slice::slice(root, &meta).map(Object::from),
            Kind::NetworkPolicy => policy::policy(root, &meta).map(Object::from),
            Kind::ClusterNetworkPolicy => cluster_policy::policy(root, &meta).map(Object::from),
        },
    };
    let object_ref = || ObjectRef::new(kind.0, meta.key.clone());
    let ignored = meta.take_ignored();
    let decoded = object.map(|object| match ignored {
        None => Decoded::Object(object),
        Some((mut fault, others)) => {
            fault.message += ": this part is ignored, and the rest is used";
            if others > 0 {
                fault.message += &format!(" ({others} more parts are ignored)");
            }
            Decoded::Partial(object, Box::new(refuse(Some(object_ref()), None, fault)))
        }
    });
    decoded.map_err(|fault| {
        let closes: Option<Object> = match kind.0 {
            Kind::NetworkPolicy => Some(policy::closing(value, &meta.key).into()),
            Kind::ClusterNetworkPolicy => Some(cluster_policy::closing(value, &meta.key).into()),
            _ => None,
        };
        let closes = closes.map(Box::new);
        refuse(Some(object_ref()), closes, fault)
    })
}

enum Header<'a> {
    /// A kind that heddle reads, in a version that it does not.
    Ours((Kind, Option<Fault<'a>>), Meta<'a>),
    Other(String),
}

fn header(root: Node<'_>) -> Result<Header<'_>, Fault<'_>> {
    let version_node = root.need("apiVersion")?;
    let (version, name) = (version_node.text()?, root.need("kind")?.text()?);
    let (group, number) = version.rsplit_once('/').unwrap_or(("", version));
    let (kind, known): (Kind, &[&str]) = match (group, name) {
        ("", "Node") => (Kind::Node, &["v1"]),
        ("", "Namespace") => (Kind::Namespace, &["v1"]),
        ("", "Pod") => (Kind::Pod, &["v1"]),
        ("", "Service") => (Kind::Service, &["v1"]),
        ("discovery.k8s.io", "EndpointSlice") => (Kind::EndpointSlice, &["v1"]),
        ("networking.k8s.io", "NetworkPolicy") => (Kind::NetworkPolicy, &["v1"]),
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => (Kind::ClusterNetworkPolicy, &["v1alpha2"]),
        ("networking.k8s.io", "ServiceCIDR") => (Kind::ServiceCidr, &["v1", "v1beta1"]),
        _ if guess::guess(root.0).is_some() => {
            return Err(root.need("kind")?.fault(format!(
                "{version} {name} is no kind, and may be meant as a policy, so heddle closes what it may select: write \
                 networking.k8s.io/v1 NetworkPolicy or policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy"
            )));
        }
        _ => return Ok(Header::Other(format!("{version} {name}"))),
    };
    let unknown = !known.contains(&number);
    let fault = unknown.then(|| version_node.fault(format!("heddle reads {name} of version {}", known.join(", "))));
    Ok(Header::Ours((kind, fault), Meta::read(root, kind)?))
}

/// Splits a `List`, or a list of one kind such as `PodList`, into its entries, also within other lists. Any other value is
/// returned as it is. Entries of a typed list without `kind` and `apiVersion` get them from the list.
#[must_use]
pub fn unlist(value: Value) -> Vec<Value> {
    let mut out = Vec::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match split_list(value) {
            Ok(items) => open.extend(items.into_iter().rev()),
            Err(object) => out.push(object),
        }
    }
    out
}

/// Returns the entries of a list, or the value itself if it is no list.
fn split_list(mut value: Value) -> Result<Vec<Value>, Value> {
    let of = value
        .get("kind")
        .and_then(Value::as_str)
        .and_then(|kind| kind.strip_suffix("List"))
        .map(str::to_owned);
    let Some(of) = of else { return Err(value) };
    let version = value.get("apiVersion").cloned();
    let items = match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        // An empty list, as a client in Go writes it.
        Some(Value::Null) => Vec::new(),
        _ => return Err(value),
    };
    let complete = |mut item: Value| {
        if let Value::Object(fields) = &mut item
            && !of.is_empty()
        {
            fields.entry("kind").or_insert_with(|| of.as_str().into());
            if let Some(version) = &version {
                fields.entry("apiVersion").or_insert_with(|| version.clone());
            }
        }
        item
    };
    Ok(items.into_iter().map(complete).collect())
}
