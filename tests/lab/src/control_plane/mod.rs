//! A real control plane: etcd, kube-apiserver and kube-controller-manager in a namespace of their own, beside the nodes.
//!
//! With [`Extent::Api`] there is no scheduler and no kubelet: whoever uses this names each pod's node and writes the pod's status,
//! as [`ControlPlane::start_pod`] does. The lifecycle of nodes is not watched, because nobody renews their leases.
//! [`Extent::Complete`] has a scheduler and all controllers, for nodes with a kubelet; the laboratory itself has no such nodes.
//!
//! - [`KubernetesBinaries`]: where the programs lie; `make kubernetes` builds them.
//! - [`ControlPlane`]: start, end and restart of each program, and compaction of etcd.
//! - `kubectl`: objects, by the real client. `kubelet`: pods and nodes. `account`: credentials for agents.
//! - [`Gate`]: a relay before the API server that cuts an agent off.

mod account;
mod binaries;
mod certificates;
mod etcd;
mod gate;
mod kubectl;
mod kubelet;
mod processes;

pub use account::Account;
pub use binaries::KubernetesBinaries;
pub use gate::Gate;
pub use processes::{ControlPlane, Extent};
