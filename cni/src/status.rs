//! STATUS: asks the agent whether it can serve an ADD now (CNI 1.1, section 4, "STATUS").

use heddle_proto::{CniError, ErrorCode};

use crate::agent;
use crate::config::NetConf;
use crate::version::CniVersion;

/// Asks the agent for its readiness.
///
/// # Errors
/// Code 50 if no agent answers, or if it has not read the objects that it needs for an ADD; code 1 for a version of the
/// specification that has no STATUS.
pub async fn ask_readiness(conf: &NetConf) -> Result<(), CniError> {
    if conf.version < CniVersion::V1_1_0 {
        return Err(CniError::new(
            ErrorCode::INCOMPATIBLE_VERSION,
            format!(
                "cniVersion {:?} has no STATUS: set 1.1.0 or later",
                conf.version.as_str()
            ),
        ));
    }
    let asked = async {
        agent::connect(conf)
            .await?
            .readiness()
            .await
            .map_err(|e| agent::cni_error(&e))
    };
    match asked.await {
        Ok(_) => Ok(()),
        // STATUS has its own code for "not now": 50 instead of 11.
        Err(e) if e.code == ErrorCode::TRY_AGAIN_LATER => Err(CniError {
            code: ErrorCode::UNAVAILABLE,
            ..e
        }),
        Err(e) => Err(e),
    }
}
