//! The durable records of this node's attachments: their ids, addresses and interfaces.
//!
//! An attachment is one interface of one container, identified by both, as in CNI. Its id is the endpoint's id in the tables
//! and in the flow table. It therefore outlives the process and is reused as late as possible. [`alloc`] chooses addresses,
//! [`store`] has the records in memory, and `state_file` reads and writes their file.

pub mod alloc;
mod error;
mod record;
mod state_file;
pub mod store;

pub use error::StoreError;
pub use record::{FIRST_ID, LAST_ID, Record};
pub use state_file::{FILE, StateWrite};
pub use store::Store;
