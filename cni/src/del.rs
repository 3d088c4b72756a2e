//! DEL: deletes a pod's interface. A repeated DEL succeeds, and so does a DEL of an interface that is already gone.
//!
//! The interface is deleted before the attachment is released, so that an address is allocated again only when nobody can
//! use it.
//!
//! If no agent answers, the plugin deletes the interface if the pod's namespace still has it, and the call fails with
//! code 11, so that the runtime repeats it. If DEL succeeded without the agent, nobody would ever release the address.

use heddle_linux::{Netlink, NetnsError};
use heddle_proto::{CniError, ErrorCode, NetnsPath};

use crate::config::NetConf;
use crate::env::Target;
use crate::kernel::{KernelError, open_netns};
use crate::{agent, pod};

/// Detaches the pod: deletes its interface and releases its attachment.
///
/// # Errors
/// Code 11 if no agent answers; the kernel's error if the interface cannot be deleted.
pub async fn detach_pod(conf: &NetConf, target: &Target, path: Option<&NetnsPath>) -> Result<(), CniError> {
    let mut agent = match agent::connect(conf).await {
        Ok(agent) => agent,
        Err(error) => return Err(with_interface(error, delete_in_pod(target, path))),
    };
    match agent.attachment(&target.container, &target.ifname).await {
        Ok(known) => {
            let netlink = Netlink::open().map_err(KernelError::from)?;
            let host = netlink.link(known.host_ifname.as_str()).map_err(KernelError::from)?;
            // An interface of this name with another index is not the attachment's.
            let same = |index: u32| known.host_ifindex.is_none_or(|known| known == index);
            if let Some(link) = host.filter(|link| link.veth && same(link.index)) {
                netlink.delete_link(&link).map_err(KernelError::from)?;
            }
        }
        Err(e)
            if e.refused()
                .is_some_and(|error| error.code == ErrorCode::UNKNOWN_CONTAINER) => {}
        Err(e) => return Err(with_interface(agent::cni_error(&e), delete_in_pod(target, path))),
    }
    delete_in_pod(target, path)?;
    agent
        .release(&target.container, &target.ifname)
        .await
        .map(drop)
        .map_err(|e| agent::cni_error(&e))
}

/// Deletes the interface in the pod's namespace, if the namespace still exists.
fn delete_in_pod(target: &Target, path: Option<&NetnsPath>) -> Result<(), CniError> {
    let Some(path) = path else { return Ok(()) };
    match open_netns(path) {
        Ok(netns) => Ok(pod::delete(&netns, &target.ifname)?),
        // The interfaces of a deleted namespace are gone. In the node's own namespace heddle-cni must delete nothing.
        Err(KernelError::Netns(NetnsError::Gone { .. }) | KernelError::OwnNetns { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Adds a failed deletion of the interface to an error.
fn with_interface(error: CniError, deleted: Result<(), CniError>) -> CniError {
    match deleted {
        Ok(()) => error,
        Err(e) => error.with_details(format!("the interface could not be deleted either: {e}")),
    }
}
