//! The workers, their ports, and what they read.

pub mod flow_file;
