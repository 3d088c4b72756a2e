//! The source of objects that the configuration names: a folder, or an API server.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use heddle_config::{ObjectSource, Settings};
use heddle_model::{Event, Object};
use heddle_source::folder::{self, FolderError};
use heddle_source::kube::{self, ApiServer, ConnectError, Credentials, Follower, Health};

use crate::api_endpoints::ApiEndpoints;

/// The reason why the source cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder cannot be watched.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The API server's credentials cannot be used.
    #[error(transparent)]
    ApiServer(#[from] ConnectError),
}

/// The source to follow.
pub(crate) enum SelectedSource {
    /// A folder, with the contents that an earlier agent kept of files which did not parse.
    Folder {
        path: PathBuf,
        earlier_files: BTreeMap<Arc<str>, Vec<Object>>,
    },
    /// An API server, whose endpoints are remembered in the state directory.
    ApiServer { server: ApiServer, state_dir: PathBuf },
}

/// The source while it is followed. Dropping it ends that.
pub(crate) enum Followed {
    Folder { _watch: folder::Watch },
    ApiServer(Follower),
}

impl SelectedSource {
    /// Returns the source that the settings name.
    pub(crate) fn of(settings: &Settings, earlier_files: BTreeMap<Arc<str>, Vec<Object>>) -> Self {
        match &settings.source {
            ObjectSource::Manifests(folder) => Self::Folder {
                path: folder.clone(),
                earlier_files,
            },
            ObjectSource::ApiServer {
                kubeconfig,
                context,
                address,
            } => Self::ApiServer {
                server: ApiServer {
                    credentials: match kubeconfig {
                        Some(path) => Credentials::Kubeconfig {
                            path: path.clone(),
                            context: context.clone(),
                        },
                        None => Credentials::InCluster,
                    },
                    address: address.clone(),
                    remembered: Vec::new(),
                },
                state_dir: settings.state_dir.clone(),
            },
        }
    }

    /// Follows the source and calls `sink` with each batch of events, on a thread of the source.
    pub(crate) fn follow(
        self,
        mut sink: impl FnMut(Vec<Event>) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Followed, SourceError> {
        Ok(match self {
            Self::Folder { path, earlier_files } => {
                tracing::info!(folder = %path.display(), "objects come from a folder");
                Followed::Folder {
                    _watch: folder::watch_batches(&path, &earlier_files, sink)?,
                }
            }
            Self::ApiServer { mut server, state_dir } => {
                let mut endpoints = ApiEndpoints::read(&state_dir);
                server.remembered = endpoints.all();
                Followed::ApiServer(kube::follow(server, move |batch| {
                    endpoints.remember(&batch);
                    sink(batch)
                })?)
            }
        })
    }
}

impl Followed {
    /// Returns the state of each kind; `None` for a folder.
    pub(crate) const fn health(&self) -> Option<&Health> {
        match self {
            Self::Folder { .. } => None,
            Self::ApiServer(follower) => Some(follower.health()),
        }
    }
}
