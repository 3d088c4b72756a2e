//! The compiler's output: the tables under construction, the last built tables, and the generations of endpoints.

use std::sync::Arc;

use heddle_tables::{Snapshot, SnapshotBuilder};

use crate::generations::Generations;

/// The tables that a compiler writes.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) tables: SnapshotBuilder,
    /// The tables as they were last built: live flows were judged by them.
    pub(crate) last: Arc<Snapshot>,
    pub(crate) generations: Generations,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            tables: SnapshotBuilder::new(),
            last: Arc::default(),
            generations: Generations::default(),
        }
    }
}
