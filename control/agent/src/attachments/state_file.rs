//! The file of the attachments in the state directory: its contents, and how it is read and written.
//!
//! A write replaces the file as a whole ([`state_file`]), so after a crash it has either the old contents or the new ones.
//! Fields that this version does not know are ignored: a later version may have written the file before a rollback.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heddle_host::state_file;
use heddle_model::Node;
use serde::{Deserialize, Deserializer, Serialize};

use super::error::StoreError;
use super::record::{FIRST_ID, LAST_ID, Record};

/// The file's name.
pub const FILE: &str = "attachments.json";
/// The version of the file's layout; a file of another version is refused.
const LAYOUT: u32 = 1;

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileContents {
    pub(super) layout: u32,
    /// The id allocated last. The file calls it a number.
    #[serde(rename = "lastNumber")]
    pub(super) last_id: u16,
    /// The address allocated last of each range.
    pub(super) last_addresses: Vec<IpAddr>,
    /// Addresses in the order in which they were freed.
    pub(super) freed: VecDeque<IpAddr>,
    pub(super) attachments: Vec<Record>,
    /// The ids of other nodes in the tables and in the flow table.
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, u16>,
    /// The last version of this node's object, from which the node's facts follow while the object is missing.
    #[serde(
        default,
        deserialize_with = "readable_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) own_node: Option<Arc<Node>>,
}

/// Reads a node that another version of heddle may have written in another form. Without it, the facts wait for the object.
fn readable_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Node>>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok().map(Arc::new))
}

impl Default for FileContents {
    fn default() -> Self {
        Self {
            layout: LAYOUT,
            last_id: FIRST_ID - 1,
            last_addresses: Vec::new(),
            freed: VecDeque::new(),
            attachments: Vec::new(),
            nodes: BTreeMap::new(),
            own_node: None,
        }
    }
}

/// Contents to be written to the file.
#[derive(Debug)]
pub struct StateWrite {
    pub(super) path: PathBuf,
    pub(super) contents: FileContents,
}

impl StateWrite {
    /// Writes the file and syncs it. The call blocks for as long as the disk needs.
    ///
    /// # Errors
    /// The file cannot be written. The old file stays.
    pub fn perform(self) -> Result<(), StoreError> {
        write(&self.path, &self.contents).map_err(|source| StoreError::Io {
            path: self.path,
            source,
        })
    }
}

/// Parses the file and checks that ids and addresses are unique.
pub(super) fn read(bytes: &[u8]) -> Result<FileContents, String> {
    /// The one field that every layout has.
    #[derive(Deserialize)]
    struct Layout {
        layout: u32,
    }
    let Layout { layout } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if layout != LAYOUT {
        return Err(format!(
            "its layout has version {layout}; this agent reads version {LAYOUT}"
        ));
    }
    let mut contents: FileContents = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    contents.attachments.sort_by_key(|a| a.id);
    let mut addresses = HashSet::new();
    for (n, record) in contents.attachments.iter().enumerate() {
        if !(FIRST_ID..=LAST_ID).contains(&record.id) {
            return Err(format!(
                "attachment number {} is not between {FIRST_ID} and {LAST_ID}",
                record.id
            ));
        }
        if n > 0
            && contents
                .attachments
                .get(n - 1)
                .is_some_and(|before| before.id == record.id)
        {
            return Err(format!("two attachments have the number {}", record.id));
        }
        if let Some(twice) = record.addresses.iter().find(|a| !addresses.insert(**a)) {
            return Err(format!("two attachments have the address {twice}"));
        }
    }
    Ok(contents)
}

/// Encodes the contents and replaces the file.
fn write(path: &Path, contents: &FileContents) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(contents)?;
    text.push(b'\n');
    state_file::replace(path, &text)
}
