//! The source of objects that the configuration names: a folder, or an API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_config::{ObjectSource, Settings};
use heddle_model::Object;
use heddle_source::folder::FolderSource;
use heddle_source::kube::{ApiServer, ApiServerSource, Credentials};
use heddle_source::{FollowError, Followed, Sink, Source};

use crate::api_endpoints::ApiEndpoints;
use crate::saved_cluster;

/// Returns the source that the settings name. `earlier_files` has the contents that an earlier agent kept of files which did not
/// parse.
pub(crate) fn selected(settings: &Settings, earlier_files: BTreeMap<Arc<str>, Vec<Object>>) -> Box<dyn Source> {
    match &settings.source {
        ObjectSource::Manifests(folder) => {
            tracing::info!(folder = %folder.display(), "objects come from a folder");
            Box::new(FolderSource {
                folder: folder.clone(),
                earlier: earlier_files,
            })
        }
        ObjectSource::ApiServer {
            kubeconfig,
            context,
            address,
            kubelet_kubeconfig,
        } => {
            let endpoints = ApiEndpoints::read(&settings.state_dir);
            let state_dir = settings.state_dir.clone();
            let source = ApiServerSource {
                server: ApiServer {
                    credentials: match kubeconfig {
                        Some(path) => Credentials::Kubeconfig {
                            path: path.clone(),
                            context: context.clone(),
                        },
                        None => Credentials::InCluster,
                    },
                    address: address.clone(),
                    kubelet_kubeconfig: kubelet_kubeconfig.clone(),
                    remembered: endpoints.all(),
                },
                node: Some(settings.node.as_str().into()),
                load_saved: Box::new(move || saved_cluster::read(&state_dir)),
            };
            Box::new(RememberedSource { source, endpoints })
        }
    }
}

/// An API server whose endpoints are remembered for the next start.
struct RememberedSource {
    source: ApiServerSource,
    endpoints: ApiEndpoints,
}

impl Source for RememberedSource {
    fn follow(self: Box<Self>, mut sink: Sink) -> Result<Box<dyn Followed>, FollowError> {
        let Self { source, mut endpoints } = *self;
        let remembering: Sink = Box::new(move |batch| {
            endpoints.remember(&batch.events);
            sink(batch)
        });
        Box::new(source).follow(remembering)
    }
}
