//! The read model: answers `heddle status`, `drops` and `flows` without asking the controller.
//!
//! The controller updates the [`ReadModel`] after each of its turns. Readers take the newest `View`, and read counters,
//! the flow table and the cluster directly. A reader holds a lock for one look-up or one list, and never while it waits
//! for something else, so a stuck reader delays neither the controller nor the workers. The read model changes nothing
//! that forwarding depends on.
//!
//! `model` has the state, `queries` the trait that the socket's server calls. One module answers each query:
//! `status`, `drops`, `flows`. `probes` answers the kubelet's probes.

mod change_times;
mod denied;
mod drops;
mod flows;
mod meters;
mod model;
mod names;
mod nodes;
mod policies;
mod probes;
mod queries;
mod source_status;
mod status;
mod view;

pub use model::{ReadModel, SharedCluster};
pub use queries::Queries;
pub(crate) use view::{UplinkView, View};
