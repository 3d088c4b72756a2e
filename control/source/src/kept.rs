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
use serde::{Deserialize, Serialize};

use crate::lines;

/// The version of the format. Texts of another version are refused.
const LAYOUT: u32 = 1;

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
        let line = lines::write(&Line {
            origin: Arc::clone(&version.origin),
            object: version.object.clone(),
        });
        if longest + lines.len() + line.len() > max_bytes {
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
    lines::write(&FirstLine {
        layout: LAYOUT,
        versions,
        files: files.into_iter().cloned().collect(),
    })
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
    let mut rest = text.split_inclusive(|byte| *byte == b'\n');
    let first = rest.next().unwrap_or_default();
    lines::check_layout(first, LAYOUT)?;
    let header: FirstLine = lines::read(first)?;
    let mut kept = Kept::default();
    let mut first_fault = None;
    for (line, number) in rest.zip(2..) {
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

/// Reads the line of a version.
fn version(line: &[u8]) -> Result<KeptVersion, String> {
    let Line { origin, object } = lines::read(line)?;
    lines::check_names(&object)?;
    Ok(KeptVersion { origin, object })
}
