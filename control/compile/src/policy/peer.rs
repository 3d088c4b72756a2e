//! The peers of rules: which pods and addresses they match, and where the index of selectors keeps them.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;
use heddle_model::{IpBlock, LabelSelector, Labels, Operator};
use heddle_tables::Prefix;

use crate::policy::identities::IdentityClass;
use crate::policy::ids::Label;
use crate::policy::pod_classes::PodTraits;
use crate::prefix::to_prefix;

/// The namespaces of selected pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// One namespace.
    Namespace(Arc<str>),
    /// All namespaces with matching labels.
    Labels(LabelSelector),
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerSelector {
    /// Pods. In a rule that denies, those whose labels, or whose namespace's labels, cannot be read match too.
    Pods {
        scope: Scope,
        pods: LabelSelector,
        denies: bool,
    },
    /// Pods that have a port with one of these names. A rule for every peer with named ports has this selector, because
    /// its answer for these pods differs from its answer for everyone.
    HavingPort(BTreeSet<Arc<str>>),
    /// Addresses, of pods too.
    Block(IpBlock),
    /// The addresses of nodes. In a rule that denies, nodes whose labels cannot be read match too.
    Nodes { nodes: LabelSelector, denies: bool },
}

/// Returns true if labels match in a rule that denies, or in another rule.
fn fits(selector: &LabelSelector, labels: &Labels, denies: bool) -> bool {
    if denies {
        selector.may_match(labels)
    } else {
        selector.matches(labels)
    }
}

impl PeerSelector {
    /// Returns true if it selects pods with these traits. Blocks select addresses, not pods, so they return false.
    pub(crate) fn matches_pods(&self, traits: &PodTraits, namespaces: &HashMap<Arc<str>, Labels>) -> bool {
        match self {
            Self::Pods { scope, pods, denies } => {
                let in_scope = match scope {
                    Scope::Namespace(name) => *name == traits.namespace,
                    Scope::Labels(selector) if selector.is_everything() => true,
                    Scope::Labels(selector) => match namespaces.get(&traits.namespace) {
                        Some(labels) => fits(selector, labels, *denies),
                        None => selector.matches(&Labels::default()),
                    },
                };
                in_scope && fits(pods, &traits.labels, *denies)
            }
            Self::HavingPort(names) => traits.ports.iter().any(|(name, ..)| names.contains(name)),
            Self::Nodes { .. } | Self::Block(_) => false,
        }
    }

    /// Returns true if it selects the addresses of a class as a block or as node addresses, whichever pod has them.
    pub(crate) fn matches_addresses(&self, class: &IdentityClass) -> bool {
        match self {
            Self::Pods { .. } | Self::HavingPort(_) => false,
            Self::Nodes { nodes, denies } => class.node.as_ref().is_some_and(|labels| fits(nodes, labels, *denies)),
            Self::Block(block) => class.cidr.is_some_and(|inner| {
                let covers = |net| to_prefix(net).is_some_and(|p| p.covers(&inner));
                covers(block.cidr()) && !block.except().iter().any(|net| covers(*net))
            }),
        }
    }

    /// Returns true if it selects pods, false if it selects addresses.
    pub(crate) const fn is_of_pods(&self) -> bool {
        matches!(self, Self::Pods { .. } | Self::HavingPort(_))
    }

    /// Returns the keys of its entries in the index. Each pod, node or address that it matches has at least one of
    /// these properties, if the labels of pods and namespaces can be read.
    pub(crate) fn index_keys(&self) -> Vec<IndexKey> {
        match self {
            Self::Block(block) => to_prefix(block.cidr()).map(IndexKey::Cidr).into_iter().collect(),
            Self::HavingPort(names) => names.iter().cloned().map(IndexKey::Port).collect(),
            Self::Nodes { .. } => vec![IndexKey::Node],
            Self::Pods {
                scope: Scope::Namespace(name),
                pods,
                ..
            } => {
                let within = |label| IndexKey::LabelWithin(Arc::clone(name), label);
                required_labels(pods)
                    .map(|labels| labels.map(within).collect())
                    .unwrap_or_else(|| vec![IndexKey::Namespace(Arc::clone(name))])
            }
            Self::Pods {
                scope: Scope::Labels(namespaces),
                pods,
                ..
            } => required_labels(pods)
                .map(|labels| labels.map(IndexKey::PodLabel).collect())
                .or_else(|| required_labels(namespaces).map(|labels| labels.map(IndexKey::NamespaceLabel).collect()))
                .unwrap_or_else(|| vec![IndexKey::Anywhere]),
        }
    }
}

/// Returns a set of labels such that every matching object has at least one of them. `None` if the selector has no such
/// requirement.
pub(crate) fn required_labels(selector: &LabelSelector) -> Option<impl Iterator<Item = Label>> {
    let requirement = selector.requirements().iter().find(|r| r.operator() == Operator::In)?;
    Some(
        requirement
            .values()
            .iter()
            .map(|value| (Arc::clone(requirement.key()), Arc::clone(value))),
    )
}

/// A key of the index of selectors: a property that the matched pods, nodes or addresses have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum IndexKey {
    Namespace(Arc<str>),
    LabelWithin(Arc<str>, Label),
    PodLabel(Label),
    NamespaceLabel(Label),
    Port(Arc<str>),
    Cidr(Prefix),
    Node,
    /// No property is required.
    Anywhere,
}

/// Returns the CIDRs of a block, its exceptions included.
pub(crate) fn prefixes(block: &IpBlock) -> impl Iterator<Item = Prefix> {
    let nets = std::iter::once(block.cidr()).chain(block.except().iter().copied());
    nets.filter_map(to_prefix)
}
