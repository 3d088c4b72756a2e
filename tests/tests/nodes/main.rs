//! Several nodes: pods reach each other over the network between the nodes, in tunnels and without.

mod capture;
mod changes;
#[path = "../common/mod.rs"]
mod common;
mod direct_return;
mod host_ports;
mod kernel;
mod mtu;
mod outside;
mod reach;
mod restart;
mod router;
mod scene;
mod spoofing;
mod wire;
