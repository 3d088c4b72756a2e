//! The cluster's objects, validated, with their cross references.
//!
//! Objects contain no Kubernetes types. The doc of each field names the field of the Kubernetes API that it holds, and a
//! value that the API forbids cannot be built. [`Cluster`] keeps the objects: it applies one [`Event`] after another and
//! returns the [`Changes`] that follow, so that the work of a consumer grows with the change and not with the cluster.
//!
//! This crate does no input and output, and has no clock. `heddle-source` decodes objects, `heddle-compile` makes tables
//! of them.

mod changes;
mod cluster;
mod cluster_policy;
mod event;
pub mod flannel;
mod intern;
mod kept;
mod key;
mod labels;
mod mac;
mod node;
mod node_facts;
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
pub use intern::Interner;
pub use kept::{Kept, KeptVersion};
pub use key::{Kind, ObjectKey, ObjectRef};
pub use labels::{LabelError, Labels, check_label_key, check_label_value};
pub use mac::{MacAddress, MacAddressError};
pub use node::{NAMESPACE_NAME_LABEL, Namespace, Node, ServiceCidr, VTEP_ANNOTATION};
pub use node_facts::NodeFacts;
pub use pod::{ContainerPort, Pod, PodPhase, PortOfHost};
pub use policy::{IpBlock, IpBlockError, NetworkPolicy, Peer, PolicyPort, PolicyPorts, PolicyRule};
pub use port::{PortNumber, PortRange, PortRangeError, Protocol, UnknownProtocol};
pub use selector::{LabelSelector, Operator, Requirement, RequirementError};
pub use service::{
    ClusterIps, ExternalForwarding, IngressMode, LoadBalancerIngress, LoadBalancing, Service, ServicePort, ServiceType,
    SessionAffinity, TargetPort, TrafficDistribution, TrafficPolicy, UnknownExternalForwarding,
};
pub use slice::{AddressType, Endpoint, EndpointPort, EndpointSlice};
