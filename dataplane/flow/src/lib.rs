//! The flow table: connection tracking for all workers in one place.
//!
//! Both directions of a connection can arrive at different workers, and NAT makes their tuples differ, so there is one
//! table of fixed capacity. A lookup takes no lock and writes nothing; an insert or a removal locks the two buckets that
//! it touches. Each connection is one record of three cache lines that serves both directions, found by a bucket line.
//! The table may live in a mapped file that the next start of the agent takes over ([`FlowTable::open`]).
//!
//! A hit is read by vector loads if the processor has them (`simd`). The model checker runs equivalent scalar functions.
//!
//! The table does not judge connections. An entry's generations and epoch show that it is stale, and [`FlowView::admits_syn`]
//! shows that a SYN may hit it. The engine acts on both. The table reads no clock and allocates only when it is made. A full table
//! gives up an entry for a new connection only if that entry has expired or shows no complete exchange of both sides (a half-open
//! handshake, a datagram without a reply). All other live connections stay.
//!
//! # Layout
//!
//! `header | buckets | overflow buckets | records | affinities`, all in 64-byte lines of atomic words.
//! A bucket has seven entries of tag and record number. A full bucket continues in an overflow bucket.
//! A connection costs 192 B of record, 43 B of buckets (in a full table a bucket has three entries on average) and 5 B of overflow
//! buckets.
//! Per-endpoint counts and the other statistics are not in the file; a takeover recounts the endpoints' connections.

mod affinity;
mod bucket;
mod charge;
mod config;
mod encoding;
mod file;
mod freelist;
mod hash;
mod insert;
mod iter;
mod layout;
mod lookup;
#[cfg(all(test, loom))]
mod loom_tests;
mod mmap;
mod record;
mod seqlock;
mod simd;
mod state;
mod stats;
mod sync;
mod table;
mod takeover;
#[cfg(test)]
mod testing;
mod types;

pub use affinity::AffinityTable;
pub use config::{Config, Quotas};
pub use file::{BootId, Fresh, OpenError, Takeover};
pub use heddle_ids::{EndpointId, Epoch, Generation, NextHopId, NodeId};
pub use insert::InsertError;
pub use record::{Counters, Route};
pub use state::Timeouts;
pub use stats::{GroupId, Stats};
pub use table::{Connection, FlowTable};
pub use types::{Egress, FlowFlags, FlowKey, FlowState, FlowView, Hit, Millis, NewFlow, Origin, Rewrite, SlotId};
