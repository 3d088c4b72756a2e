//! The kubelet's probes of the agent's pod: `/livez` and `/readyz` on a port of the node's loopback address.
//!
//! `/livez` fails if a restart may help: the control thread or a worker makes no turns. `/readyz` fails while new pods cannot be
//! attached, and says what is missing. Each answer has one line for each check, in the form of Kubernetes' own verbose answers.
//! The age of the API server's state is shown and never fails a probe, because the last good state serves without the server.
//!
//! `report` has the lines, `server` the HTTP server. The read model has the facts (`read_model::probes`).

mod report;
mod server;

pub use report::{Check, ProbeReport};
pub use server::{ProbeServer, Probed};
