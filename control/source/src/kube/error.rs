//! Errors of the start, and the words of errors in general.

use std::io;
use std::path::PathBuf;

/// The reason why an API server cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be read, or does not have what is asked for.
    #[error("kubeconfig {path}: {}", one_line(.source.as_ref()))]
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
    #[error("the credentials for {server} cannot be used: {}", one_line(.source.as_ref()))]
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

/// Returns an error with its causes.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// Returns an error with its causes in one line.
fn one_line(error: &dyn std::error::Error) -> String {
    first_words(&causes(error))
}

/// Returns the beginning of a text that may be a whole page of HTML, in one line.
pub(super) fn first_words(text: &str) -> String {
    const LONGEST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
