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
use serde::{Deserialize, Serialize};

use crate::lines;

/// The version of the format. Texts of another version are refused.
const LAYOUT: u32 = 1;

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
        to.write_all(&lines::write(&header))?;
        for object in &self.objects {
            to.write_all(&lines::write(object))?;
        }
        for rejection in &self.rejections {
            to.write_all(&lines::write(&RejectionLine {
                closes: rejection.closes.clone(),
                rejection: rejection.clone(),
            }))?;
        }
        Ok(())
    }

    /// Reads a text.
    ///
    /// # Errors
    /// The reason why nothing of it is used: it is of another version, damaged, or cannot be read.
    pub fn read(mut from: impl BufRead) -> Result<Self, String> {
        let mut number = 0_usize;
        let mut line = Vec::new();
        Self::read_lines(|| {
            line.clear();
            number += 1;
            from.read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
            Ok(std::mem::take(&mut line))
        })
        .map_err(|fault| format!("line {number}: {fault}"))
    }

    /// Reads a text line by line. A line behind the end is empty.
    fn read_lines(mut next: impl FnMut() -> Result<Vec<u8>, String>) -> Result<Self, String> {
        let first = next()?;
        lines::check_layout(&first, LAYOUT)?;
        let header: SavedHeader = lines::read(&first)?;
        let saved_at = UNIX_EPOCH
            .checked_add(Duration::from_secs(header.saved_at))
            .ok_or_else(|| format!("{} is no time", header.saved_at))?;
        // The numbers of a damaged header must not reserve memory.
        let (mut objects, mut rejections) = (Vec::new(), Vec::new());
        for _ in 0..header.objects {
            let object = lines::read(&next()?)?;
            lines::check_names(&object)?;
            objects.push(object);
        }
        for _ in 0..header.rejections {
            let RejectionLine { mut rejection, closes } = lines::read(&next()?)?;
            rejection.closes = closes;
            rejections.push(rejection);
        }
        match next()?.is_empty() {
            true => Ok(Self {
                saved_at,
                objects,
                rejections,
            }),
            false => Err("there are more lines than the first one announces".to_owned()),
        }
    }

    /// Gives every rejection another origin.
    pub fn set_origin(&mut self, origin: &Arc<str>) {
        for rejection in &mut self.rejections {
            rejection.origin = Arc::clone(origin);
        }
    }
}
