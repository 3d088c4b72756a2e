//! The node agent, as a library: the binary `heddle` calls [`run::run`], [`preflight::report`] and [`cleanup::run`].
//!
//! It wires the other crates together: threads, the host port, the attachments' store, and the sockets that `heddle-cni`
//! and the other commands of `heddle` ask. What a packet or an object means is decided by `heddle-engine` and
//! `heddle-compile`; the command line and everything that is printed for people is `heddle-cli`.

pub mod api;
pub mod attachments;
pub mod cleanup;
pub mod controller;
pub mod health;
pub mod lock;
pub mod memory;
pub mod notify;
pub mod preflight;
pub mod privileges;
pub mod read_model;
pub mod run;
pub mod workers;

/// Returns the names of all drop reasons, as `heddle status` counts them and `heddle drops --reason` takes them.
pub fn drop_reasons() -> impl Iterator<Item = &'static str> {
    heddle_engine::DropReason::ALL.iter().map(|reason| reason.as_str())
}

/// Returns the names of all classes of drop reasons, as `heddle drops --class` takes them.
pub fn drop_classes() -> impl Iterator<Item = &'static str> {
    heddle_engine::DropClass::ALL.iter().map(|class| class.as_str())
}
