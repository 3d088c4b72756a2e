//! Lists and reads the files of a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use super::error::FolderError;
use super::state::Content;
use crate::manifest::{ParseError, is_manifest, parse};

/// The most bytes that are read of a file: more than the dump of any cluster. Reading a file that keeps growing ends here.
const MAX_BYTES: u64 = 4 << 30;

/// Returns the names of the manifests in a folder. Names that are not UTF-8 are ignored.
pub(super) fn list(folder: &Path) -> Result<BTreeSet<Arc<str>>, FolderError> {
    let failed = |source| FolderError::List {
        path: folder.to_owned(),
        source,
    };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.extend(name.to_str().filter(|name| is_manifest(name)).map(Arc::from));
    }
    Ok(names)
}

/// Reads files. A file that changes while it is read is left out, because it is read again when its writer closes it.
pub(super) fn read_all(folder: &Path, names: BTreeSet<Arc<str>>) -> BTreeMap<Arc<str>, Content> {
    let mut contents = BTreeMap::new();
    for name in names {
        let content = match read_stable(&folder.join(name.as_ref())) {
            Ok(Some(text)) => match parse(&name, &text) {
                Ok(entries) => Content::Entries(entries),
                Err(error) => Content::Unreadable {
                    error,
                    may_have_policies: may_have_policies(&text),
                },
            },
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::Gone,
            Err(error) => Content::Unreadable {
                error: ParseError {
                    line: None,
                    message: format!("cannot be read: {error}"),
                },
                may_have_policies: true,
            },
        };
        contents.insert(name, content);
    }
    contents
}

/// Returns `true` if a text that does not parse has a word of policies. Kinds may be misspelt, so parts of words count.
fn may_have_policies(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["polic", "netpol", "podselector"]
        .iter()
        .any(|word| text.contains(word))
}

/// Returns the text of a file; `None` if it changed meanwhile. A path that is no regular file counts as not found.
fn read_stable(path: &Path) -> io::Result<Option<String>> {
    // Checked before opening, because opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(path)?;
    let before = file.metadata()?;
    let mut bytes = Vec::new();
    (&file).take(MAX_BYTES).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    if (before.len(), before.modified()?) != (after.len(), after.modified()?) {
        return Ok(None);
    }
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "the text is not UTF-8");
    String::from_utf8(bytes).map(Some).map_err(invalid)
}
