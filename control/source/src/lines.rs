//! Lines of JSON in files of the state directory ([`crate::kept`], [`crate::saved`]).
//!
//! A line is used only if it is exactly what this version of heddle writes: a field that is missing or unknown (of another
//! version, or of a damaged file) could make an object allow more.

use heddle_model::Object;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most characters of a message about a line.
const MAX_MESSAGE: usize = 200;

/// Returns the line of a value. The types of these files have no value that JSON cannot have.
pub(crate) fn write(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads a line that would be written exactly like this.
pub(crate) fn read<T: Serialize + DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let Some(text) = line.strip_suffix(b"\n") else {
        return Err("the line does not end".to_owned());
    };
    let value = serde_json::from_slice(text).map_err(|e| short(&e))?;
    match write(&value) == line {
        true => Ok(value),
        false => Err("a field is missing, unknown, or not in the form in which it is written".to_owned()),
    }
}

/// Refuses the first line of another layout, whose other fields are not known.
pub(crate) fn check_layout(first: &[u8], expected: u32) -> Result<(), String> {
    /// The one field that every layout has.
    #[derive(Deserialize)]
    struct Layout {
        layout: u32,
    }
    let Layout { layout } = serde_json::from_slice(first).map_err(|e| short(&e))?;
    match layout == expected {
        true => Ok(()),
        false => Err(format!(
            "its layout has version {layout}; this agent reads version {expected}"
        )),
    }
}

/// Refuses an object whose names its kind cannot have.
pub(crate) fn check_names(object: &Object) -> Result<(), String> {
    let kind = object.kind();
    match object.key().is_legal_for(kind) {
        true => Ok(()),
        false => Err(format!("a {kind} has a name that it cannot have")),
    }
}

/// Returns the beginning of a message, which may repeat a long value.
fn short(error: &serde_json::Error) -> String {
    error.to_string().chars().take(MAX_MESSAGE).collect()
}
