//! The configuration file: every key of the agent with its default, and its checked form.
//!
//! [`Config`] contains the keys of the file as it was read; each flag of `heddle run` sets one of them. [`Settings`] is
//! the checked form, with every default filled in. `heddle-agent` runs with it, `heddle-cli` declares its flags from
//! [`Config`], and `heddle-offline` reads the keys that affect verdicts. `configs/heddle.yaml` lists every key with its
//! default; a test compares the two.
//!
//! This crate reads no Kubernetes object. The only things that it reads from the machine are the file, `$NODE_NAME`,
//! the host's name and the cores that the process may use.

mod as_text;
mod bounds;
mod cni;
pub mod cores;
mod error;
mod file;
mod limits;
mod object_source;
mod port_range;
mod settings;

pub use bounds::{Fragments, TimeoutSeconds, Vxlan};
pub use cni::CniDirs;
pub use cores::CoreList;
pub use error::ConfigError;
pub use file::{Config, DEFAULT_STATE_DIR, HugePages, PodXdpMode};
pub use heddle_proto::DEFAULT_RUN_DIR;
pub use limits::{FRAME_SIZE, MAX_SEGMENT, MAX_WORKERS, MIN_POD_MTU, handover_frames, uplink_queues, working_frames};
pub use object_source::ObjectSource;
pub use port_range::PortRange;
pub use settings::Settings;
