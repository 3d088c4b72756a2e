//! Iterates over all connections, at once or page by page. It takes no lock, so two connections may be read at different moments.

use std::ops::ControlFlow;

use crate::record::Record;
use crate::table::{Connection, FlowTable};
use crate::types::SlotId;

impl FlowTable {
    /// Calls `see` with every connection. `see` may remove connections.
    pub fn for_each(&self, mut see: impl FnMut(&Connection)) {
        for number in 0..self.free_records().mark() {
            let Some(record) = self.record(number) else { return };
            if let Some(connection) = connection(number, &record) {
                see(&connection);
            }
        }
    }

    /// Calls `see` with the connections of at most `budget` records, from record `from` on, until `see` breaks. Returns the record
    /// to continue with; `None` at the end.
    ///
    /// Records keep their numbers, so a connection that lives during a whole iteration is shown once.
    pub fn page(&self, from: u32, budget: u32, mut see: impl FnMut(&Connection) -> ControlFlow<()>) -> Option<u32> {
        let mark = self.free_records().mark();
        let end = from.saturating_add(budget).min(mark);
        for number in from..end {
            let connection = self.record(number).and_then(|record| connection(number, &record));
            if connection.is_some_and(|connection| see(&connection).is_break()) {
                return Some(number + 1).filter(|next| *next < mark);
            }
        }
        Some(end).filter(|next| *next < mark)
    }
}

/// Returns the connection in a record, if it is live.
fn connection(number: u32, record: &Record<'_>) -> Option<Connection> {
    if !record.conn_state().1.is_live() {
        return None;
    }
    let contents = record.read();
    let views = contents.view(0).zip(contents.view(1))?;
    contents.conn.is_live().then(|| Connection {
        slot: SlotId::new(contents.incarnation, number, 0),
        keys: [0, 1].map(|d| contents.key(d)),
        views: [views.0, views.1],
        counters: [0, 1].map(|d| record.counters(contents.incarnation, d)),
        inserted_at: record.inserted_at(),
    })
}
