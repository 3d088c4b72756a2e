//! The pipeline: what happens to a packet between the port where it comes in and the one where it leaves.
//!
//! [`process`] takes a burst through the stages and gives each packet its [`Verdict`]; it knows packets and tables, no ring
//! and no socket. A [`Worker`] has the rings: it receives bursts, sends what is to be forwarded or answered, hands over what
//! leaves by another worker's port, counts, and listens to control. [`decide`](decide()) is the slow path without a frame.
//!
//! What it does not do: make ports, compile tables, or read a clock. It never allocates, logs or locks per packet, but for
//! the flow table's own bucket locks when a connection comes or goes.

#![forbid(unsafe_code)]

mod batch;
mod context;
mod control;
mod counters;
mod decide;
mod drops;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handover;
mod ingress;
mod process;
mod reason;
mod reassembly;
mod stage;
mod verdict;
mod wakeup;
mod worker;

pub use batch::Batch;
pub use context::{StageConfig, Stages};
pub use control::{AddError, WorkerGone, WorkerHandle};
pub use counters::{Counter, PortCounters, PortTotals, WorkerCounters, WorkerTotals};
pub use decide::{
    Allowed, BackendSelector, Decision, Denial, Query, Source, Target, connection_hash, decide, decide_with, judge,
};
pub use drops::{DropRecord, DropRing, PolicyCount, PolicyCounters, Reading};
pub use handover::{Ends, mesh};
pub use ingress::{Ingress, PortRole};
pub use process::{Tables, process};
pub use reason::{AbsorbReason, AnswerKind, DropReason};
pub use reassembly::{FragmentConfig, FragmentTotals};
pub use verdict::Verdict;
pub use wakeup::Waker;
pub use worker::{TurnStats, Worker, WorkerConfig};
