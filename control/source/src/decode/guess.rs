//! Policies whose header is wrong: the closing policy for a document that may have been meant as one.
//!
//! A document without `apiVersion`, or with a misspelt group or kind, is no policy for the API. Its author may believe that
//! it is in force, so it closes what it may select. Kinds of other projects (`projectcalico.org/v3 NetworkPolicy`) are no
//! misspellings.

use heddle_model::{Object, ObjectKey};
use serde_json::Value;

use super::meta::check_name;
use super::node::Node;
use super::{cluster_policy, policy};

/// The kinds that a document may have been meant as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guess {
    NetworkPolicy,
    ClusterNetworkPolicy,
}

const GROUPS: [&str; 2] = ["networking.k8s.io", "policy.networking.k8s.io"];
/// Kinds of these groups that are no policies for heddle.
const OTHER_KINDS: [&str; 6] = [
    "Ingress",
    "IngressClass",
    "IPAddress",
    "ServiceCIDR",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
];
/// The most letters by which a misspelt name differs.
const NEAR: usize = 2;

/// Returns the kind of policy that a document may have been meant as; `None` if it is certainly something else.
pub(super) fn guess(root: &Value) -> Option<Guess> {
    let text = |key: &str| root.get(key).and_then(Value::as_str);
    let group = text("apiVersion").map(|version| version.rsplit_once('/').map_or("", |(group, _)| group));
    let of_ours = |group: &str| GROUPS.iter().any(|ours| distance(ours, group) <= NEAR);
    let Some(kind) = text("kind") else {
        // Without a kind, the shape decides, unless the group has no policies.
        return group.is_none_or(of_ours).then(|| by_shape(root)).flatten();
    };
    if let Some(guess) = by_kind(kind) {
        // A group of Kubernetes itself or without a domain is a mistake; other domains have kinds of the same name.
        let is_foreign = |group: &str| {
            let of_kubernetes = group.ends_with("k8s.io") || group.ends_with("kubernetes.io");
            group.contains('.') && !of_kubernetes && !of_ours(group)
        };
        return (!group.is_some_and(is_foreign)).then_some(guess);
    }
    let may_be_ours = group.is_none_or(of_ours) && !OTHER_KINDS.contains(&kind);
    may_be_ours.then(|| by_shape(root)).flatten()
}

fn by_kind(kind: &str) -> Option<Guess> {
    let letters = kind
        .bytes()
        .filter(u8::is_ascii_alphanumeric)
        .map(|b| b.to_ascii_lowercase());
    let letters: String = letters.map(char::from).collect();
    let singular = letters.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let name = singular.as_deref().unwrap_or(&letters);
    if distance(name, "clusternetworkpolicy") <= NEAR {
        return Some(Guess::ClusterNetworkPolicy);
    }
    (distance(name, "networkpolicy") <= NEAR || name == "netpol").then_some(Guess::NetworkPolicy)
}

fn by_shape(root: &Value) -> Option<Guess> {
    let spec = root.get("spec")?;
    let has = |keys: &[&str]| keys.iter().any(|key| spec.get(key).is_some());
    if has(&["subject", "tier"]) {
        return Some(Guess::ClusterNetworkPolicy);
    }
    has(&["podSelector", "policyTypes", "ingress", "egress"]).then_some(Guess::NetworkPolicy)
}

/// Returns the closing policy of a document whose header cannot be read. Its name is empty. A NetworkPolicy whose namespace
/// cannot be read becomes a ClusterNetworkPolicy of the Baseline tier for all namespaces, which closes as much.
pub(super) fn closing(root: &Value) -> Option<Object> {
    let key = ObjectKey::new("", "");
    match guess(root)? {
        Guess::ClusterNetworkPolicy => Some(cluster_policy::closing(root, &key).into()),
        Guess::NetworkPolicy => {
            let metadata = root.get("metadata").filter(|metadata| metadata.is_object());
            let namespace = match metadata.map(|metadata| Node(metadata).text_of("namespace")) {
                Some(Ok(None)) => Some("default"),
                Some(Ok(Some(name))) => check_name(name, 63).ok(),
                None | Some(Err(_)) => None,
            };
            Some(match namespace {
                Some(namespace) => policy::closing(root, &ObjectKey::new(namespace, "")).into(),
                None => cluster_policy::in_all_namespaces(&policy::closing(root, &key)).into(),
            })
        }
    }
}

/// Returns the number of letters to insert, remove or replace (Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *slot;
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            diagonal = std::mem::replace(slot, left);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
