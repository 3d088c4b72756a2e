//! A large cluster made from a seed, and a server that plays its API.
//!
//! [`plan`] has the sizes and the names, addresses and placement of every object, as functions of an object's index.
//! [`object`] writes an object as the API server does, from the JSON templates in `templates/`. [`state`] keeps what has
//! changed since the start, and [`stream`] makes the next change. [`server`] serves lists and watches over HTTP, and
//! [`process`] runs it as a process of its own.
//!
//! [`stages`] times source, model and compiler in this process. [`agent`] measures a real agent with real pods in the
//! laboratory, and [`memory`] its memory.
//!
//! Objects are written when they are asked for, so the server's memory grows with the changes and not with the cluster.
//! It is not an API server: it checks nothing, and a change's object is written in its newest version.

pub mod agent;
pub mod memory;
pub mod object;
pub mod plan;
pub mod process;
pub mod server;
pub mod stages;
pub mod state;
pub mod stream;
mod template;

pub use plan::Plan;
