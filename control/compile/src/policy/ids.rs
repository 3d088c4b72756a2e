//! Identifiers that several files of `policy` share.

use std::sync::Arc;

use heddle_model::{ObjectKey, Protocol};

/// A selector in use: see `selectors`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SelectorId(pub(super) u32);

/// A group of endpoints that share one policy: see `groups`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct GroupId(pub(super) u32);

/// A class of pods that no policy could tell apart: see `pod_classes`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PodClassId(pub(crate) u32);

/// A set of pod classes that no active policy tells apart: see `equivalence`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct EquivalenceClassId(pub(super) u32);

/// One version of a policy. A ClusterNetworkPolicy has an empty namespace. `true`: only its Deny rules count, because it is
/// not known whether it selects the pod, whose labels cannot be read.
pub(crate) type PolicyVersion = (ObjectKey, u64, bool);

/// A named port of a pod: name, protocol, number.
pub(crate) type NamedPort = (Arc<str>, Protocol, u16);

/// A label as key and value.
pub(crate) type Label = (Arc<str>, Arc<str>);
