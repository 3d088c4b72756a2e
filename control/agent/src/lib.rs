//! The node agent and the command line of heddle.
//!
//! It wires the other crates together: configuration, threads, the host port, the attachments' store, the sockets that
//! `heddle-cni` and the other commands ask. What a packet or an object means is decided elsewhere.

pub mod api;
pub mod attachments;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod controller;
pub mod cores;
pub mod demo;
pub mod drops;
pub mod flows;
mod flows_watch;
pub mod health;
pub mod lock;
pub mod memory;
pub mod notify;
pub mod port_range;
pub mod privileges;
pub mod replay;
pub mod run;
pub mod simulate;
pub mod status;
pub mod watch;
pub mod workers;
