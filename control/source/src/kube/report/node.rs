//! The agent's own Node: annotations, and the condition `NetworkUnavailable`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::DefaultBackoff;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::connect::Connected;
use super::client::client;
use super::faults::Faults;
use super::observed::{Observed, OwnNode};

/// The annotation with the addresses at which the node takes tunnelled packets, separated by commas.
pub const VTEP_ADDRESS_ANNOTATION: &str = "heddle.io/vtep-addresses";
/// The annotation with the version of the node's agent.
pub const VERSION_ANNOTATION: &str = "heddle.io/version";

/// The resources, as RBAC rules name them.
const NODES: &str = "nodes";
const NODE_STATUS: &str = "nodes/status";

/// `reason` of the condition, by which people see who set it.
const REASON: &str = "HeddleIsUp";

/// The annotations of the agent's Node while the dataplane is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The annotations, by name.
    pub annotations: BTreeMap<&'static str, String>,
    /// Annotations that an earlier agent may have written. They are removed if the Node has every one of them with this value: then
    /// nobody else wrote them.
    pub withdrawn: BTreeMap<&'static str, String>,
}

impl NodeReport {
    /// Returns the annotations that a Node does not have, and `null` for the ones to remove, as a JSON merge patch (RFC 7386). It is
    /// one patch for all: flanneld notices a change of one family's annotations only if the other family's change with it.
    fn annotations_patch(&self, node: &OwnNode) -> Option<Value> {
        let has = |name: &str, value: &String| node.annotations.get(name) == Some(value);
        let missing = self.annotations.iter().filter(|(name, value)| !has(name, value));
        let mut changes: BTreeMap<&str, Option<&String>> = missing.map(|(name, value)| (*name, Some(value))).collect();
        if self.withdrawn.iter().all(|(name, value)| has(name, value)) {
            changes.extend(self.withdrawn.keys().map(|name| (*name, None)));
        }
        (!changes.is_empty()).then(|| json!({"metadata": {"annotations": changes}}))
    }
}

/// Returns the patch that sets the condition, if a Node does not have it. A strategic merge keeps the other conditions.
fn condition_patch(node: &OwnNode) -> Option<Value> {
    let has_it = node
        .network_unavailable
        .as_ref()
        .is_some_and(|(status, reason)| (status.as_str(), reason.as_str()) == ("False", REASON));
    (!has_it).then(|| {
        let now = k8s_openapi::jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        json!({"status": {"conditions": [{
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": REASON,
            "message": "heddle forwards the packets of this node's pods",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]}})
    })
}

/// Keeps the Node as it is to be, until the senders are gone. A failed write and one that someone else undid are repeated after
/// a pause that grows up to half a minute.
pub(super) async fn keep_reported(
    mut reports: watch::Receiver<Option<NodeReport>>,
    observed: &Observed,
    mut clients: watch::Receiver<Option<Connected>>,
    faults: &Faults,
) {
    let Some(name) = observed.node_name() else { return };
    let mut nodes = observed.own_node();
    let mut backoff = DefaultBackoff::default();
    loop {
        let (report, node) = (reports.borrow_and_update().clone(), nodes.borrow_and_update().clone());
        let (annotations, condition) = match (&report, &node) {
            (Some(report), Some(node)) => (report.annotations_patch(node), condition_patch(node)),
            _ => (None, None),
        };
        // Someone else may have written what could not be written here.
        if annotations.is_none() {
            faults.clear(NODES);
        }
        if condition.is_none() {
            faults.clear(NODE_STATUS);
        }
        if annotations.is_none() && condition.is_none() {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                changed = nodes.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let Some(client) = client(&mut clients).await else {
            return;
        };
        let api: Api<Node> = Api::all(client);
        let params = PatchParams::default();
        if let Some(patch) = annotations {
            let result = api.patch_metadata(name, &params, &Patch::Merge(&patch)).await;
            faults.record("patch", NODES, result.as_ref().map(|_| ()));
        }
        if let Some(patch) = condition {
            let result = api.patch_status(name, &params, &Patch::Strategic(&patch)).await;
            faults.record("patch", NODE_STATUS, result.as_ref().map(|_| ()));
        }
        // The watch shows the new state meanwhile.
        tokio::time::sleep(backoff.next().unwrap_or_default()).await;
    }
}

#[cfg(test)]
mod tests {
    use heddle_model::VTEP_ANNOTATION;

    use super::*;

    fn report() -> NodeReport {
        NodeReport {
            annotations: [
                (VTEP_ANNOTATION, "02:68:65:64:64:6c".to_owned()),
                (VERSION_ANNOTATION, "1".to_owned()),
            ]
            .into(),
            withdrawn: BTreeMap::new(),
        }
    }

    #[test]
    fn annotations_are_withdrawn_if_nobody_else_wrote_them() {
        let report = NodeReport {
            annotations: BTreeMap::new(),
            withdrawn: [("type", "vxlan".to_owned()), ("data", "mine".to_owned())].into(),
        };
        let node = |all: &[(&str, &str)]| OwnNode {
            annotations: all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..OwnNode::default()
        };
        let patch = report.annotations_patch(&node(&[("data", "mine"), ("type", "vxlan"), ("other", "x")]));
        assert_eq!(
            patch,
            Some(json!({"metadata": {"annotations": {"data": null, "type": null}}}))
        );
        for others in [&[("data", "theirs"), ("type", "vxlan")][..], &[("data", "mine")], &[]] {
            assert_eq!(report.annotations_patch(&node(others)), None, "{others:?}");
        }
    }

    #[test]
    fn only_what_is_missing_or_different_is_written() {
        let mut node = OwnNode::default();
        node.annotations.insert("other".to_owned(), "stays".to_owned());
        node.annotations.insert(VERSION_ANNOTATION.to_owned(), "0".to_owned());
        let patch = report().annotations_patch(&node).unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"annotations": {VTEP_ANNOTATION: "02:68:65:64:64:6c", VERSION_ANNOTATION: "1"}}})
        );
        node.annotations.insert(VERSION_ANNOTATION.to_owned(), "1".to_owned());
        node.annotations
            .insert(VTEP_ANNOTATION.to_owned(), "02:68:65:64:64:6c".to_owned());
        assert_eq!(report().annotations_patch(&node), None);
    }

    #[test]
    fn the_condition_of_others_is_replaced() {
        let with = |status: &str, reason: &str| OwnNode {
            network_unavailable: Some((status.to_owned(), reason.to_owned())),
            ..OwnNode::default()
        };
        assert_eq!(condition_patch(&with("False", REASON)), None);
        for node in [OwnNode::default(), with("True", REASON), with("False", "CalicoIsUp")] {
            let patch = condition_patch(&node).unwrap();
            assert_eq!(patch["status"]["conditions"][0]["status"], "False");
        }
    }
}
