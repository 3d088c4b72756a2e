//! The node agent, as a library: the binary `heddle` calls [`run::run`], [`preflight::report`] and [`cleanup::run`].
//!
//! It connects the other crates: worker threads, the host port, the attachments' store, and the sockets for `heddle-cni` and
//! for the other commands of `heddle`. `heddle-engine` decides about packets and `heddle-compile` about objects; the command
//! line and all text for people is in `heddle-cli`.

pub mod api;
mod api_endpoints;
pub mod attachments;
pub mod cleanup;
pub mod cni_files;
pub mod controller;
pub mod descriptors;
pub mod health;
mod http;
pub mod kept;
pub mod lock;
pub mod memory;
pub mod notify;
pub mod preflight;
pub mod privileges;
pub mod probes;
pub mod read_model;
pub mod reaper;
pub mod run;
mod saved_cluster;
pub mod signals;
mod source;
pub mod workers;

/// Returns the names of all drop reasons, as `heddle status` counts them and `heddle drops --reason` takes them.
pub fn drop_reasons() -> impl Iterator<Item = &'static str> {
    heddle_engine::DropReason::ALL.iter().map(|reason| reason.as_str())
}

/// Returns the names of all classes of drop reasons, as `heddle drops --class` takes them.
pub fn drop_classes() -> impl Iterator<Item = &'static str> {
    heddle_engine::DropClass::ALL.iter().map(|class| class.as_str())
}
