//! The source of the cluster's objects: a folder or an API server.

use std::path::PathBuf;

use crate::error::ConfigError;

/// The source of the cluster's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectSource {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// A Kubernetes API server.
    ApiServer {
        /// The kubeconfig; `None`: the service account of the agent's pod.
        kubeconfig: Option<PathBuf>,
        /// The kubeconfig's context; `None`: its `current-context`.
        context: Option<String>,
        /// The server's address, if it is configured.
        address: Option<String>,
        /// The kubelet's kubeconfig, whose address is used with a service account if the file is there.
        kubelet_kubeconfig: Option<PathBuf>,
    },
}

/// Returns the source of objects: a folder, or an API server.
pub(crate) fn object_source(
    manifests: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    address: Option<String>,
    kubelet_kubeconfig: Option<PathBuf>,
) -> Result<ObjectSource, ConfigError> {
    let of_api_server = [
        ("kubeconfig", kubeconfig.as_ref().map(|path| path.display().to_string())),
        ("context", context.clone()),
        ("apiServer", address.clone()),
    ];
    if let (Some(folder), Some((key, value))) = (
        &manifests,
        of_api_server.into_iter().find_map(|(key, value)| Some((key, value?))),
    ) {
        return Err(ConfigError::value(
            key,
            value,
            format!(
                "is of an API server, and manifests is {}: objects come from one of them",
                folder.display()
            ),
        ));
    }
    if let (None, Some(context)) = (&kubeconfig, &context) {
        return Err(ConfigError::value(
            "context",
            context,
            "needs a kubeconfig: add kubeconfig",
        ));
    }
    if let Some(address) = address.as_ref().filter(|address| !address.starts_with("https://")) {
        return Err(ConfigError::value(
            "apiServer",
            address,
            "is no URL of an API server: write https://HOST:PORT",
        ));
    }
    Ok(match manifests {
        Some(folder) => ObjectSource::Manifests(folder),
        None => ObjectSource::ApiServer {
            kubeconfig,
            context,
            address,
            kubelet_kubeconfig,
        },
    })
}
