//! The client of a write.

use tokio::sync::watch;

use super::super::connect::Connected;

/// Waits for a client.
pub(super) async fn client(clients: &mut watch::Receiver<Option<Connected>>) -> Option<kube::Client> {
    let connected = clients.wait_for(Option::is_some).await.ok()?;
    connected.as_ref().map(|connected| connected.client.clone())
}
