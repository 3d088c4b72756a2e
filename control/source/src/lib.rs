//! Sources of Kubernetes objects.
//!
//! A source reports [`Event`]s: validated objects, deletions, and rejections of objects that failed validation. The events
//! of all sources are alike; [`heddle_model::Cluster`] applies them.
//!
//! - [`decode`](mod@decode) decodes one object from JSON.
//! - [`manifest`] parses a file of YAML or JSON into its objects.
//! - [`folder`] reads a folder of such files once, or watches it.
//! - [`kept`] reads and writes the last good versions of refused objects, which an agent keeps over its restarts.
//! - [`kube`](mod@kube) follows a Kubernetes API server.
//! - [`saved`] reads and writes a whole cluster, which an agent keeps for a start without the API server.
//!
//! An agent knows a source as a [`Source`].
//!
//! Only this crate knows the JSON and YAML forms of Kubernetes objects.

pub mod decode;
mod documents;
pub mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod kept;
pub mod kube;
mod lines;
pub mod manifest;
pub mod saved;
mod source;
mod yaml;

pub use heddle_model::Event;
pub use source::{Batch, FollowError, Followed, Sink, Source};
