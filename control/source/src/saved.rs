//! The text form of a whole cluster ([`SavedCluster`]), which an agent that follows an API server keeps in its state
//! directory. With it, an agent that starts while the API server is away serves what it knew last.
//!
//! The first line is a header: the format's version, the time, and the numbers of lines. Then each line has one object, and
//! after the objects each line has one rejection. The objects are heddle's own, without the fields that heddle does not use.
//!
//! A text is used as a whole or not at all: a policy that is missing would allow more. So each line must be exactly what this
//! version of heddle writes.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heddle_model::{Cluster, Kind, Object, Rejection};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the format. Texts of another version are refused.
const LAYOUT: u32 = 1;
/// The most characters of a message about a line.
const MAX_MESSAGE: usize = 200;

/// A cluster as an earlier agent knew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCluster {
    /// The time at which it was saved.
    pub saved_at: SystemTime,
    /// The good versions of all objects, with later kinds of [`Kind::ALL`] after earlier ones.
    pub objects: Vec<Object>,
    /// The rejections.
    pub rejections: Vec<Rejection>,
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedHeader {
    layout: u32,
    /// Seconds since 1970.
    saved_at: u64,
    objects: usize,
    rejections: usize,
}

/// A line with a rejection.
#[derive(Serialize, Deserialize)]
struct RejectionLine {
    rejection: Rejection,
    /// [`Rejection::closes`], which the rejection itself is written without.
    closes: Option<Object>,
}

impl SavedCluster {
    /// Copies a cluster. Objects are shared, so the work is small for each.
    #[must_use]
    pub fn of(cluster: &Cluster, saved_at: SystemTime) -> Self {
        let mut objects = Vec::with_capacity(Kind::ALL.iter().map(|kind| cluster.count(*kind)).sum());
        cluster.each_good_version(|object, _| objects.push(object));
        Self {
            saved_at,
            objects,
            rejections: cluster.rejections().cloned().collect(),
        }
    }

    /// Writes the text.
    ///
    /// # Errors
    /// The writer's errors.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let since = self.saved_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = SavedHeader {
            layout: LAYOUT,
            saved_at: since.as_secs(),
            objects: self.objects.len(),
            rejections: self.rejections.len(),
        };
        let mut line = Vec::new();
        let mut write = |text: Vec<u8>| {
            line = text;
            line.push(b'\n');
            to.write_all(&line)
        };
        write(serde_json::to_vec(&header)?)?;
        for object in &self.objects {
            write(serde_json::to_vec(object)?)?;
        }
        for rejection in &self.rejections {
            write(serde_json::to_vec(&RejectionLine {
                closes: rejection.closes.clone(),
                rejection: rejection.clone(),
            })?)?;
        }
        Ok(())
    }

    /// Reads a text.
    ///
    /// # Errors
    /// The reason why nothing of it is used: it is of another version, damaged, or cannot be read.
    pub fn read(mut from: impl BufRead) -> Result<Self, String> {
        let mut line = Vec::new();
        let mut number = 0_usize;
        let mut next = |line: &mut Vec<u8>| -> Result<usize, String> {
            line.clear();
            number += 1;
            from.read_until(b'\n', line).map_err(|e| e.to_string())?;
            Ok(number)
        };
        next(&mut line)?;
        check_layout(&line)?;
        let header: SavedHeader = exactly(&line, 1)?;
        let saved_at = UNIX_EPOCH
            .checked_add(Duration::from_secs(header.saved_at))
            .ok_or_else(|| format!("line 1: {} is no time", header.saved_at))?;
        // The numbers of a damaged header must not reserve memory.
        let (mut objects, mut rejections) = (Vec::new(), Vec::new());
        for _ in 0..header.objects {
            let number = next(&mut line)?;
            let object: Object = exactly(&line, number)?;
            let subject = object.object_ref();
            if !subject.key.is_legal_for(subject.kind) {
                return Err(format!(
                    "line {number}: a {} has a name that it cannot have",
                    subject.kind
                ));
            }
            objects.push(object);
        }
        for _ in 0..header.rejections {
            let number = next(&mut line)?;
            let RejectionLine { mut rejection, closes } = exactly(&line, number)?;
            rejection.closes = closes;
            rejections.push(rejection);
        }
        let number = next(&mut line)?;
        match line.is_empty() {
            true => Ok(Self {
                saved_at,
                objects,
                rejections,
            }),
            false => Err(format!(
                "line {number}: there are more lines than the first one announces"
            )),
        }
    }

    /// Gives every rejection another origin.
    pub fn set_origin(&mut self, origin: &Arc<str>) {
        for rejection in &mut self.rejections {
            rejection.origin = Arc::clone(origin);
        }
    }
}

/// Refuses the header of another version, whose other fields are not known.
fn check_layout(header: &[u8]) -> Result<(), String> {
    /// The one field that every version has.
    #[derive(Deserialize)]
    struct Layout {
        layout: u32,
    }
    match serde_json::from_slice(header).map_err(|e| short(1, &e))? {
        Layout { layout: LAYOUT } => Ok(()),
        Layout { layout } => Err(format!(
            "its layout has version {layout}; this agent reads version {LAYOUT}"
        )),
    }
}

/// Reads a line, and refuses one that would not be written exactly like this.
fn exactly<T: Serialize + DeserializeOwned>(line: &[u8], number: usize) -> Result<T, String> {
    let Some(line) = line.strip_suffix(b"\n") else {
        return Err(format!("line {number}: the text ends too early"));
    };
    let read: T = serde_json::from_slice(line).map_err(|e| short(number, &e))?;
    match serde_json::to_vec(&read) {
        Ok(again) if again == line => Ok(read),
        _ => Err(format!(
            "line {number}: a field is missing, unknown, or not in the form in which it is written"
        )),
    }
}

/// Returns the beginning of a message, which may repeat a long value.
fn short(number: usize, error: &serde_json::Error) -> String {
    format!("line {number}: {error}").chars().take(MAX_MESSAGE).collect()
}
