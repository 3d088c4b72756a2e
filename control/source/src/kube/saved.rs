//! The cluster that an earlier agent saved: it serves at the start, as long as the API server does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use heddle_model::{Kind, Object, Rejection, Subject};
use tokio::sync::watch;

use super::health::Health;
use crate::saved::SavedCluster;

/// The time from the start after which kinds that the server has not listed yet are served as they were saved. Until then, pods
/// that were attached before have no network; a small cluster is listed in a tenth of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads the saved cluster; `None` without one.
pub type Load = Box<dyn FnOnce() -> Option<SavedCluster> + Send>;

/// A saved cluster by kinds. The part of each kind is taken once.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) saved_at: SystemTime,
    parts: Mutex<BTreeMap<Kind, SavedPart>>,
}

/// The part of one kind.
#[derive(Debug, Default)]
pub(super) struct SavedPart {
    pub(super) objects: Vec<Object>,
    pub(super) rejections: Vec<Rejection>,
}

impl Saved {
    /// Divides a cluster by kinds. `origin` is the source's name.
    pub(super) fn new(mut cluster: SavedCluster, origin: &Arc<str>) -> Self {
        cluster.set_origin(origin);
        let mut parts: BTreeMap<Kind, SavedPart> = BTreeMap::new();
        for object in cluster.objects {
            parts.entry(object.kind()).or_default().objects.push(object);
        }
        for rejection in cluster.rejections {
            if let Subject::Object(subject) = &rejection.subject {
                parts.entry(subject.kind).or_default().rejections.push(rejection);
            }
        }
        Self {
            saved_at: cluster.saved_at,
            parts: Mutex::new(parts),
        }
    }

    /// Removes and returns the part of a kind.
    pub(super) fn take(&self, kind: Kind) -> SavedPart {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.remove(&kind).unwrap_or_default()
    }
}

/// Reads the saved cluster and sends it to the followers of each kind, once the server does not answer or has not listed every
/// kind in time.
pub(super) async fn serve_saved(
    load: Load,
    origin: Arc<str>,
    health: Health,
    mut unreachable: watch::Receiver<bool>,
    saved: watch::Sender<Option<Arc<Saved>>>,
) {
    tokio::select! {
        _ = unreachable.wait_for(|unreachable| *unreachable) => {}
        () = tokio::time::sleep(PATIENCE) => {}
    }
    if health.is_synced() {
        return;
    }
    // A large cluster takes a second to read; meanwhile the server may still answer.
    let loaded = tokio::task::spawn_blocking(load).await;
    if let Ok(Some(cluster)) = loaded {
        saved.send_replace(Some(Arc::new(Saved::new(cluster, &origin))));
    }
    // The followers see a closed channel as the end of its news.
}
