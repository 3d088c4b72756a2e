//! The workers: their threads, their ports, and the tables and the flow table that they read.
//!
//! [`Workers`] belongs to the control thread. It opens and closes sockets, which takes milliseconds, and passes the
//! rings to the workers and back through their channels. The first `MAX_WORKERS` port numbers are for queues of the
//! host port, one for each possible worker. The numbers after them are for pods, and the last ones for queues of the uplink.

mod clock;
mod error;
pub mod flow_file;
mod port_ids;
mod port_table;
mod ports;
mod rings;
mod silence;
mod state;
mod stranded;
mod thread;
pub mod uplink;

pub use clock::clock;
pub use error::WorkersError;
pub use port_table::{PodPort, PortInfo};
pub use rings::NotReopened;
pub use state::Workers;
pub use thread::WorkerThread;
