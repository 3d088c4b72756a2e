//! Finds the API server, and makes a new client when the old one no longer reaches it or its credentials have changed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::{Response, Uri};
use kube::client::{ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::DefaultBackoff;
use kube::{Client, Config};
use tokio::sync::watch;
use tower::util::MapResponseLayer;

use super::error::ConnectError;
use super::health::Health;
use super::limit::{LONGEST_LINE, Limited};

/// The bound of the first question to a server.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The time without any answer after which another server or newer credentials are tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// The interval at which the connection is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The first minor version of Kubernetes 1 that streams lists by default (KEP-3157).
const STREAMS_LISTS_SINCE: u32 = 32;

/// The source of the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The service account of the pod, as the kubelet mounts it.
    InCluster,
    /// A kubeconfig.
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// The context; `None`: its `current-context`.
        context: Option<String>,
    },
}

/// The API server to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// The credentials.
    pub credentials: Credentials,
    /// The address, as `https://HOST:PORT`, if it is configured.
    pub address: Option<String>,
    /// The kubelet's kubeconfig. With a service account and without a configured address, its server is tried first.
    pub kubelet_kubeconfig: Option<PathBuf>,
    /// The endpoints of Service `default/kubernetes` as an earlier run has seen them. With a service account and without a
    /// configured address, they are tried next, before the Service's address, which the node cannot reach while the agent is down.
    pub remembered: Vec<SocketAddr>,
}

/// A client with what is known of its server.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    /// The server sends the objects of a list as a stream.
    pub(super) streams_lists: bool,
}

impl ApiServer {
    /// Returns the API server of a kubeconfig, at the address in it.
    #[must_use]
    pub const fn of_kubeconfig(path: PathBuf, context: Option<String>) -> Self {
        Self {
            credentials: Credentials::Kubeconfig { path, context },
            address: None,
            kubelet_kubeconfig: None,
            remembered: Vec::new(),
        }
    }

    /// Returns the name of the source, for `status` and rejections.
    pub(super) fn origin(&self) -> Arc<str> {
        match (&self.address, &self.credentials) {
            (Some(address), _) => address.as_str().into(),
            (None, Credentials::InCluster) => "the API server of this cluster".into(),
            (None, Credentials::Kubeconfig { path, .. }) => format!("the API server of {}", path.display()).into(),
        }
    }

    /// Reads the credentials and makes a client of them, without asking the server.
    pub(super) async fn check(&self) -> Result<(), ConnectError> {
        // The configurations differ in their addresses alone.
        match self.configs().await?.into_iter().next() {
            Some(config) => client(config).map(drop),
            None => Ok(()),
        }
    }

    /// Returns the configurations to try, in their order.
    async fn configs(&self) -> Result<Vec<Config>, ConnectError> {
        let config = match &self.credentials {
            Credentials::InCluster => Config::incluster().map_err(|e| ConnectError::InCluster(Box::new(e)))?,
            Credentials::Kubeconfig { path, context } => from_kubeconfig(path, context.clone()).await?,
        };
        let at = |address: &str| -> Result<Config, ConnectError> {
            let uri: Uri = address.parse().map_err(|_| ConnectError::Address(address.to_owned()))?;
            if uri.scheme().is_none() || uri.host().is_none() {
                return Err(ConnectError::Address(address.to_owned()));
            }
            let mut at = config.clone();
            at.cluster_url = uri;
            Ok(at)
        };
        match (&self.address, &self.credentials) {
            (Some(address), _) => Ok(vec![at(address)?]),
            (None, Credentials::Kubeconfig { .. }) => Ok(vec![config]),
            (None, Credentials::InCluster) => {
                let kubelets = self.kubelet_kubeconfig.as_deref().and_then(kubelets_server);
                let remembered = self.remembered.iter().map(|endpoint| format!("https://{endpoint}"));
                let addresses = kubelets.into_iter().chain(remembered);
                addresses
                    .map(|address| at(&address))
                    .chain([Ok(config.clone())])
                    .collect()
            }
        }
    }
}

/// Returns the server of the kubelet's kubeconfig; `None` without such a file, or if it names none.
fn kubelets_server(path: &Path) -> Option<String> {
    if !path.exists() {
        return None;
    }
    let server = match Kubeconfig::read_from(path) {
        Ok(kubeconfig) => {
            let mut contexts = kubeconfig.contexts.into_iter();
            let context = contexts.find(|context| Some(&context.name) == kubeconfig.current_context.as_ref());
            let cluster = context.and_then(|context| Some(context.context?.cluster));
            let mut clusters = kubeconfig.clusters.into_iter();
            clusters
                .find(|named| cluster.as_ref().is_none_or(|cluster| named.name == *cluster))
                .and_then(|named| named.cluster?.server)
        }
        Err(e) => {
            tracing::warn!("the kubelet's kubeconfig {} is not used: {e}", path.display());
            None
        }
    };
    server.filter(|server| server.starts_with("https://"))
}

async fn from_kubeconfig(path: &Path, context: Option<String>) -> Result<Config, ConnectError> {
    let failed = |source| ConnectError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(failed)
}

/// Makes a client whose answers are bounded.
fn client(mut config: Config) -> Result<Client, ConnectError> {
    // The watcher tries again itself, and `status` says why.
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    let limit =
        MapResponseLayer::new(|response: Response<Box<DynBody>>| response.map(|body| Limited::new(body, LONGEST_LINE)));
    let builder = ClientBuilder::try_from(config).map_err(|source| ConnectError::Client {
        server,
        source: Box::new(source),
    })?;
    Ok(builder.with_layer(&limit).build())
}

/// Finds a server that answers and sends its client; again whenever no kind has had an answer for a while. Never returns.
/// `unreachable` becomes true when no server has answered.
pub(super) async fn keep_connected(
    server: &ApiServer,
    health: &Health,
    clients: watch::Sender<Option<Connected>>,
    unreachable: &watch::Sender<bool>,
) {
    let mut backoff = DefaultBackoff::default();
    let mut reported = None;
    loop {
        match connect(server).await {
            Ok(connected) => {
                if reported.take().is_some() {
                    tracing::info!(server = %server.origin(), "the API server answers again");
                }
                backoff = DefaultBackoff::default();
                health.retry();
                clients.send_replace(Some(connected));
                wait_until_unreachable(health).await;
            }
            Err(why) => {
                health.set_connection_fault(&why);
                unreachable.send_replace(true);
                if reported.as_ref() != Some(&why) {
                    tracing::warn!(server = %server.origin(), "{why}; the objects stay as they are, and heddle tries again");
                    reported = Some(why);
                }
                tokio::time::sleep(backoff.next().unwrap_or(PATIENCE)).await;
            }
        }
    }
}

async fn wait_until_unreachable(health: &Health) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if health
            .unreachable_since()
            .is_some_and(|since| since.elapsed() >= PATIENCE)
        {
            return;
        }
    }
}

/// Returns a client for the first server that answers, or the reason why the last one does not.
async fn connect(server: &ApiServer) -> Result<Connected, String> {
    // Read each time: kubeconfigs and their certificates are replaced while the agent runs.
    let configs = server.configs().await.map_err(|e| e.to_string())?;
    let mut last = "there is no address of the API server".to_owned();
    for config in configs {
        let address = config.cluster_url.to_string();
        let client = match client(config) {
            Ok(client) => client,
            Err(e) => {
                last = e.to_string();
                continue;
            }
        };
        match tokio::time::timeout(ANSWERS_WITHIN, client.apiserver_version()).await {
            Ok(Ok(version)) => {
                tracing::info!(
                    server = address,
                    version = version.git_version,
                    "connected to the API server"
                );
                return Ok(Connected {
                    client,
                    streams_lists: streams_lists(&version.major, &version.minor),
                });
            }
            // /version needs no right of its own, so any answer of the API is one of a server that can be asked.
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                return Ok(Connected {
                    client,
                    streams_lists: false,
                });
            }
            Ok(Err(e)) => last = format!("{address}: {e}"),
            Err(_) => last = format!("{address} does not answer within {} s", ANSWERS_WITHIN.as_secs()),
        }
    }
    Err(last)
}

/// Returns true if a server of this version streams lists. Providers append a `+` to the minor version.
fn streams_lists(major: &str, minor: &str) -> bool {
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or(0);
    (number(major), number(minor)) >= (1, STREAMS_LISTS_SINCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_server_is_the_one_of_its_context() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.conf");
        assert_eq!(kubelets_server(&path), None);
        for (text, expected) in [
            ("nonsense: [", None),
            ("kind: Config", None),
            (
                "{clusters: [{name: a, cluster: {server: 'https://a:1'}}, {name: b, cluster: {server: 'https://b:2'}}], \
                 contexts: [{name: x, context: {cluster: b, user: u}}], current-context: x}",
                Some("https://b:2"),
            ),
            (
                "{clusters: [{name: a, cluster: {server: 'https://a:1'}}]}",
                Some("https://a:1"),
            ),
            ("{clusters: [{name: a, cluster: {server: 'http://a:1'}}]}", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(kubelets_server(&path).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn lists_are_streamed_by_servers_that_do_so() {
        for (major, minor, expected) in [
            ("1", "36", true),
            ("1", "32+", true),
            ("1", "31", false),
            ("2", "0", true),
            ("", "", false),
            ("1", "x", false),
        ] {
            assert_eq!(streams_lists(major, minor), expected, "{major}.{minor}");
        }
    }
}
