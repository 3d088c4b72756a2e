//! Where Kubernetes objects come from.
//!
//! A source reports [`Event`]s: objects that passed validation, deletions, and rejections of what did not. They are the
//! same whatever the source; [`heddle_model::Cluster`] takes them.
//!
//! - [`decode`](mod@decode): one object, from JSON to the model.
//! - [`manifest`]: a file of YAML or JSON, to its objects.
//! - [`folder`]: a folder of such files, read once or followed.
//!
//! Only this crate knows how Kubernetes writes objects down.

pub mod decode;
pub mod folder;
pub mod manifest;

pub use heddle_model::Event;
