//! The cluster that a command is about: a folder of manifests, or a live one that is read once.

use std::path::PathBuf;

use heddle_model::Event;
use heddle_source::folder::{self, FolderError};
use heddle_source::kube::{self, ApiServer};

/// The place that a cluster's objects are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterSource {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// An API server.
    ApiServer {
        /// The path of the kubeconfig.
        kubeconfig: PathBuf,
        /// The context; `None`: its `current-context`.
        context: Option<String>,
    },
}

/// The reason why a cluster cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The manifests cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The API server cannot be read.
    #[error(transparent)]
    ApiServer(#[from] kube::ReadError),
}

impl ClusterSource {
    /// Reads all objects.
    ///
    /// # Errors
    /// The folder or the API server cannot be read.
    pub(crate) fn read(&self) -> Result<Vec<Event>, ReadError> {
        Ok(match self {
            Self::Manifests(folder) => folder::read(folder)?,
            Self::ApiServer { kubeconfig, context } => {
                kube::read(ApiServer::of_kubeconfig(kubeconfig.clone(), context.clone()))?
            }
        })
    }
}
