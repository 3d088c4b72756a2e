//! Policy: from NetworkPolicies and ClusterNetworkPolicies to one compiled policy per group of endpoints.
//!
//! - `store` holds all policies, `activate` compiles those that select an endpoint of this node into `rule`s.
//! - `pod_classes`, `equivalence` and `references` group pods by the properties that active policies can see;
//!   `identities` groups addresses in the same way.
//! - `selectors` finds the identities that each `peer` of a rule matches, `cidrs` finds the policy CIDR of an address.
//! - `groups` holds the compiled cells of each `group`, `rule_fold` makes the answer of a cell, `exchange` finds the
//!   cells that an edited policy changes.
//! - `comparison` finds the policies that refuse more than before.
//! - `state` ties these together: the steps of a rebuild.

pub(crate) mod activate;
pub(crate) mod cidrs;
pub(crate) mod comparison;
pub(crate) mod equivalence;
pub(crate) mod exchange;
pub(crate) mod group;
pub(crate) mod groups;
pub(crate) mod identities;
pub(crate) mod ids;
pub(crate) mod peer;
pub(crate) mod pod_classes;
pub(crate) mod references;
pub(crate) mod rule;
pub(crate) mod rule_fold;
pub(crate) mod rule_ids;
pub(crate) mod selectors;
pub(crate) mod state;
pub(crate) mod store;
