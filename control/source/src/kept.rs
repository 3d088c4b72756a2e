//! The text form of last good versions that outlive the process ([`Kept`]).
//!
//! The first line is a header: the format's version, the number of versions, and the files that do not parse. Each further
//! line has one version. The agent keeps the text in its state directory.
//!
//! Reading never fails as a whole because of one line, and never uses a line that is not exactly what this version of heddle
//! writes: a field that is missing or unknown (of another version, or of a damaged file) could make an object allow more. An
//! object that is left out is as one that never was good. If anything is left out, no file counts as kept whole, so that a
//! file which does not parse closes what it may have closed.

use std::sync::Arc;

use heddle_model::{Kept, KeptVersion, Object};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the format. Texts of another version are refused.
const LAYOUT: u32 = 1;

/// The most characters of a message about a line.
const MAX_MESSAGE: usize = 200;

/// The first line.
#[derive(Serialize, Deserialize)]
struct FirstLine {
    layout: u32,
    /// The number of lines that follow.
    versions: usize,
    /// The files that do not parse.
    files: Vec<Arc<str>>,
}

/// A line with a version.
#[derive(Serialize, Deserialize)]
struct Line {
    origin: Arc<str>,
    object: Object,
}

/// Returns the text of versions, of at most `max_bytes`, and the number of versions that had no room. They are the last ones.
#[must_use]
pub fn encode(kept: &Kept, max_bytes: usize) -> (Vec<u8>, usize) {
    // The longest header is that of the complete text.
    let longest = header(kept.versions.len(), &kept.files).len();
    let mut lines = Vec::new();
    let mut count = 0;
    for version in kept.versions.values() {
        let line = line(&Line {
            origin: Arc::clone(&version.origin),
            object: version.object.clone(),
        });
        if line.is_empty() || longest + lines.len() + line.len() > max_bytes {
            break;
        }
        lines.extend(line);
        count += 1;
    }
    let left_out = kept.versions.len() - count;
    let mut text = match left_out {
        0 => header(count, &kept.files),
        _ => header(count, []),
    };
    text.extend(lines);
    (text, left_out)
}

fn header<'a>(versions: usize, files: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<u8> {
    line(&FirstLine {
        layout: LAYOUT,
        versions,
        files: files.into_iter().cloned().collect(),
    })
}

/// Returns the line of a value. The types of this module have no value that JSON cannot have.
fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The result of parsing a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The versions, and the files if nothing was left out.
    pub kept: Kept,
    /// The fault of the first line that was left out.
    pub first_fault: Option<String>,
}

/// Parses a text.
///
/// # Errors
/// The text is not of this version, or its header cannot be read.
pub fn parse(text: &[u8]) -> Result<Parsed, String> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    check_layout(first)?;
    let header: FirstLine = exactly(first)?;
    let mut kept = Kept::default();
    let mut first_fault = None;
    for (line, number) in lines.zip(2..) {
        let fault = match version(line) {
            Ok(version) => {
                let subject = version.object.object_ref();
                let before = kept.versions.insert(subject, version);
                before.map(|before| format!("{} is there twice", before.object.object_ref()))
            }
            Err(fault) => Some(fault),
        };
        if let (None, Some(fault)) = (&first_fault, fault) {
            first_fault = Some(format!("line {number}: {fault}"));
        }
    }
    let count = kept.versions.len();
    if count != header.versions {
        first_fault.get_or_insert_with(|| format!("{count} lines, but {} expected", header.versions));
    }
    if first_fault.is_none() {
        kept.files.extend(header.files);
    }
    Ok(Parsed { kept, first_fault })
}

/// Refuses the header of another version, whose other fields are not known.
fn check_layout(header: &[u8]) -> Result<(), String> {
    /// The one field that every version has.
    #[derive(Deserialize)]
    struct Layout {
        layout: u32,
    }
    let Layout { layout } = serde_json::from_slice(header).map_err(|e| short(&e))?;
    match layout {
        LAYOUT => Ok(()),
        _ => Err(format!(
            "its layout has version {layout}; this agent reads version {LAYOUT}"
        )),
    }
}

/// Returns the beginning of a message, which may repeat a long value.
fn short(error: &serde_json::Error) -> String {
    error.to_string().chars().take(MAX_MESSAGE).collect()
}

/// Reads the line of a version.
fn version(line: &[u8]) -> Result<KeptVersion, String> {
    let Line { origin, object } = exactly(line)?;
    let (kind, key) = (object.kind(), object.key());
    if !key.is_legal_for(kind) {
        return Err(format!("a {kind} has a name that it cannot have"));
    }
    Ok(KeptVersion { origin, object })
}

/// Reads a line that has exactly the fields of its type, in the form in which they are written.
fn exactly<T: Serialize + DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    if !line.ends_with(b"\n") {
        return Err("the line does not end".to_owned());
    }
    let value: Value = serde_json::from_slice(line).map_err(|e| short(&e))?;
    let read = T::deserialize(&value).map_err(|e| short(&e))?;
    match serde_json::to_value(&read) {
        Ok(again) if again == value => Ok(read),
        _ => Err("a field is missing, unknown, or not in the form in which it is written".to_owned()),
    }
}
