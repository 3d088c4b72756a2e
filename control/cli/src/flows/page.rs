//! Asks the agent for pages of connections.

use std::io;
use std::path::Path;

use heddle_proto::{API_SOCKET, Client, ClientError, Flows, FlowsRequest};

/// Connections that cannot be read from the agent or printed.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// The agent does not answer, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer cannot be written as JSON.
    #[error("cannot write the connections as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Standard output or the signal handler failed.
    #[error("cannot show the connections: {0}")]
    System(#[from] io::Error),
}

/// Asks the agent for a page of connections.
pub(super) async fn page(run_dir: &Path, request: &FlowsRequest) -> Result<Flows, ClientError> {
    Client::connect(run_dir.join(API_SOCKET)).await?.flows(request).await
}
