//! Policy: from NetworkPolicies and ClusterNetworkPolicies to one compiled policy per group of endpoints.

pub(crate) mod cidrs;
pub(crate) mod groups;
pub(crate) mod identities;
pub(crate) mod pod_classes;
pub(crate) mod policies;
pub(crate) mod references;
pub(crate) mod rule_fold;
pub(crate) mod rule_ids;
pub(crate) mod selectors;
