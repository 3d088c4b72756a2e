//! Errors of the start.

use std::io;
use std::path::PathBuf;

/// The reason why an API server cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be read, or does not have what is asked for.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// The fault.
        source: Box<kube::config::KubeconfigError>,
    },
    /// There are no in-cluster credentials.
    #[error(
        "there are no credentials of a service account: {0}. In a pod, mount the service account's token \
         (automountServiceAccountToken); elsewhere, use --kubeconfig FILE, or --manifests DIR for objects from a folder"
    )]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// The address is no URL.
    #[error("the API server's address {0} is no URL: write https://HOST:PORT")]
    Address(String),
    /// The TLS material or the credentials cannot be used.
    #[error("the credentials for {server} cannot be used: {source}")]
    Client {
        /// The server.
        server: String,
        /// The fault.
        source: Box<kube::Error>,
    },
    /// The thread or its runtime cannot be started.
    #[error("cannot start the thread that follows the API server: {0}")]
    Thread(#[source] io::Error),
}
