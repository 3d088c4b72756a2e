//! The state of the source of objects, for `heddle status`.

use std::collections::BTreeMap;
use std::time::Instant;

use heddle_config::ObjectSource;
use heddle_model::{Cluster, Kind, Subject};
use heddle_proto::status::{SourceKindStatus, SourceStatus};

use super::model::ReadModel;
use super::view::View;

impl ReadModel {
    /// Returns the state of the source of objects.
    pub(super) fn source_status(&self, view: &View) -> SourceStatus {
        let seconds = |since: Instant| since.elapsed().as_secs();
        let (kind, from) = match &self.settings.source {
            ObjectSource::Manifests(folder) => ("manifests", folder.display().to_string()),
            ObjectSource::ApiServer {
                address, kubeconfig, ..
            } => {
                let from = address
                    .clone()
                    .or_else(|| Some(kubeconfig.as_ref()?.display().to_string()));
                (
                    "kubernetes",
                    from.unwrap_or_else(|| "the service account's API server".to_owned()),
                )
            }
        };
        // Before the cluster's lock: a reader holds one lock at a time.
        let health = self.api_server.get().map(|server| server.health.all());
        let as_of = self.api_server.get().map(|server| server.health.current_as_of());
        let write_faults = self.api_server.get().map(|server| server.reporter.faults());
        let cluster = self.cluster();
        let rejected = rejected_by_kind(&cluster);
        let kinds = health.into_iter().flatten().map(|(kind, health)| {
            let status = SourceKindStatus {
                synced: health.synced,
                absent: health.absent,
                error: health.error,
                objects: health.objects as u64,
                rejected: rejected.get(&kind).copied().unwrap_or(0),
                reconnects: health.reconnects,
                resource_version: health.resource_version,
                age_seconds: health.answered_at.map(seconds),
                saved_seconds: health.saved_at.map(|at| at.elapsed().unwrap_or_default().as_secs()),
            };
            (kind.to_string(), status)
        });
        SourceStatus {
            kind: kind.to_owned(),
            from,
            synced_seconds: view.synced_at.map(seconds),
            // A folder has no connection that could be lost, and a removed folder is reported as a rejection.
            age_seconds: as_of.map_or(0, |at| at.elapsed().unwrap_or_default().as_secs()),
            kinds: kinds.collect(),
            write_faults: write_faults
                .into_iter()
                .flatten()
                .map(|(resource, fault)| (resource.to_owned(), fault))
                .collect(),
            objects: Kind::ALL
                .iter()
                .map(|kind| (kind.to_string(), cluster.count(*kind) as u64))
                .collect(),
        }
    }
}

/// Returns the number of objects of each kind that are refused, wholly or in part.
fn rejected_by_kind(cluster: &Cluster) -> BTreeMap<Kind, u64> {
    let mut rejected = BTreeMap::new();
    for rejection in cluster.rejections() {
        if let Subject::Object(object) = &rejection.subject {
            *rejected.entry(object.kind).or_default() += 1;
        }
    }
    rejected
}
