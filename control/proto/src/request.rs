//! Decoding of requests: bytes from a socket become a valid message or a [`CniError`] here, and nowhere else.

use serde::de::DeserializeOwned;

use crate::{CniError, ContainerId, ErrorCode, IfName};

/// The maximum length in characters of an error message about a request, because such a message may quote the request.
const MAX_MESSAGE: usize = 400;

/// Decodes a body.
///
/// # Errors
/// Code 6, with the position and the problem.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CniError> {
    serde_json::from_slice(bytes).map_err(|e| {
        let mut message = format!("the request cannot be decoded: {e}");
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        CniError::new(ErrorCode::DECODE, message)
    })
}

/// Validates the names in the path of an attachment.
///
/// # Errors
/// Code 4, with the name that is not allowed.
pub fn names(container: String, ifname: String) -> Result<(ContainerId, IfName), CniError> {
    let bad = |e: crate::TextError| CniError::new(ErrorCode::INVALID_ENVIRONMENT, e.to_string());
    Ok((
        ContainerId::new(container).map_err(bad)?,
        IfName::new(ifname).map_err(bad)?,
    ))
}
