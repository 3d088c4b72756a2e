//! The connection to the agent, and the conversion of its errors to CNI errors.

use heddle_proto::{Client, ClientError, CniError, ErrorCode};

use crate::config::NetConf;

/// Connects to the agent.
///
/// # Errors
/// Code 11 if no agent is running (it may be starting), code 5 if its socket cannot be used.
pub async fn connect(conf: &NetConf) -> Result<Client, CniError> {
    Client::connect(conf.socket()).await.map_err(|e| cni_error(&e))
}

/// Converts a client's error to a CNI error. An error that the agent answered with stays as it is.
#[must_use]
pub fn cni_error(e: &ClientError) -> CniError {
    match e {
        ClientError::Refused { error, .. } => error.clone(),
        ClientError::Absent { .. } | ClientError::Timeout { .. } | ClientError::Broken { .. } => {
            CniError::new(ErrorCode::TRY_AGAIN_LATER, e.to_string())
        }
        ClientError::Connect { .. } => CniError::new(ErrorCode::IO, e.to_string()),
        ClientError::QueryRefused { .. } | ClientError::Answer { .. } | ClientError::Request { .. } => {
            CniError::new(ErrorCode::AGENT, e.to_string())
        }
    }
}
