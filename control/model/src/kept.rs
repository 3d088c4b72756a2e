//! Last good versions that outlive the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::Object;
use crate::key::ObjectRef;

/// The last good versions that serve in place of refused ones.
///
/// An agent keeps them in its state directory. After its next start, the source has only the refused versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The versions, by object.
    pub versions: BTreeMap<ObjectRef, KeptVersion>,
    /// The files that do not parse, but did before. Whatever is in force of such a file is among the versions, and nothing
    /// in force closes traffic because of it.
    pub files: BTreeSet<Arc<str>>,
}

/// A last good version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVersion {
    /// Where the object is refused: a file's name, or the API server.
    pub origin: Arc<str>,
    /// The object.
    pub object: Object,
}

impl Kept {
    /// Returns true if nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.files.is_empty()
    }

    /// Returns the files that do not parse, each with its versions.
    #[must_use]
    pub fn contents_of_files(&self) -> BTreeMap<Arc<str>, Vec<Object>> {
        let mut contents: BTreeMap<_, Vec<_>> = self.files.iter().map(|file| (Arc::clone(file), Vec::new())).collect();
        for version in self.versions.values() {
            if let Some(objects) = contents.get_mut(&version.origin) {
                objects.push(version.object.clone());
            }
        }
        contents
    }
}
