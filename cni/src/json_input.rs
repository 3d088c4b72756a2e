//! Standard input as a JSON object, and its values in messages.

use heddle_proto::{CniError, ErrorCode};
use serde_json::{Map, Value};

/// Returns a value as text for a message, cut after 100 characters.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Decodes standard input as a JSON object.
///
/// # Errors
/// Code 6 if it is something else.
pub(crate) fn decode_object(input: &[u8]) -> Result<Map<String, Value>, CniError> {
    let decode = |msg: &str, details: String| CniError::new(ErrorCode::DECODE, msg).with_details(details);
    if input.trim_ascii().is_empty() {
        return Err(decode(
            "the network configuration on standard input is empty",
            String::new(),
        ));
    }
    match serde_json::from_slice(input) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(decode(
            "the network configuration on standard input is no JSON object",
            shown(&other),
        )),
        Err(e) => Err(decode(
            "the network configuration on standard input is no JSON",
            e.to_string(),
        )),
    }
}
