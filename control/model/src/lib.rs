//! The cluster as heddle understands it.
//!
//! Objects here are validated and free of Kubernetes types: each field says which field of the Kubernetes API it
//! holds, and a value that the API calls impossible cannot be built. [`Cluster`] keeps them with their cross
//! references: it takes one [`Event`] after another and answers with the [`Changes`] that it made, so that whoever
//! compiles tables from it does work in proportion to the change.
//!
//! This crate reads nothing, writes nothing and knows no clock. Decoding is the business of `heddle-source`.

mod changes;
mod cluster;
mod cluster_policy;
mod event;
mod intern;
mod key;
mod labels;
mod node;
mod pod;
pub mod pod_range;
mod policy;
mod port;
mod selector;
mod service;
mod slice;

pub use changes::{Change, Changes, Delta};
pub use cluster::Cluster;
pub use cluster_policy::{ClusterNetworkPolicy, ClusterPeer, ClusterRule, PodSubject, RuleAction, Tier, UnknownTier};
pub use event::{Cause, Event, Object, Rejection, RejectionKey, Subject};
pub use key::{Kind, ObjectKey, ObjectRef};
pub use labels::{LabelError, Labels, check_label_key, check_label_value};
pub use node::{NAMESPACE_NAME_LABEL, Namespace, Node, ServiceCidr};
pub use pod::{ContainerPort, Pod, PodPhase};
pub use policy::{IpBlock, IpBlockError, NetworkPolicy, Peer, PolicyPort, PolicyPorts, PolicyRule};
pub use port::{PortNumber, PortRange, PortRangeError, Protocol, UnknownProtocol};
pub use selector::{LabelSelector, Operator, Requirement, RequirementError};
pub use service::{
    ClusterIps, IngressMode, LoadBalancerIngress, LoadBalancing, Service, ServicePort, ServiceType, SessionAffinity,
    TargetPort, TrafficDistribution, TrafficPolicy,
};
pub use slice::{AddressType, Endpoint, EndpointPort, EndpointSlice};
