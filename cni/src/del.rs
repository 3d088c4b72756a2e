//! DEL: deletes a pod's interface. Repeating it is no error, and neither is an interface that is gone already.
//!
//! The interface goes first, then the attachment is released: an address is handed out again only when nobody can use it.
//!
//! When no agent answers, the interface is deleted as far as it can be found by the pod's namespace, and the call ends with
//! code 11, so that the runtime repeats it: a DEL that succeeded here would leave the address taken for good, as nobody
//! would ask again.

use heddle_linux::{Netlink, NetnsError};
use heddle_proto::{CniError, ErrorCode, NetnsPath};

use crate::config::NetConf;
use crate::env::Target;
use crate::kernel::{KernelError, open_netns};
use crate::{agent, pod};

/// Detaches the pod.
///
/// # Errors
/// Code 11 when no agent answers; the kernel's when the interface cannot be deleted.
pub async fn del(conf: &NetConf, target: &Target, path: Option<&NetnsPath>) -> Result<(), CniError> {
    let mut agent = match agent::connect(conf).await {
        Ok(agent) => agent,
        Err(error) => return Err(with_interface(error, delete_in_pod(target, path))),
    };
    match agent.attachment(&target.container, &target.ifname).await {
        Ok(known) => {
            let netlink = Netlink::open().map_err(KernelError::from)?;
            let host = netlink.link(known.host_ifname.as_str()).map_err(KernelError::from)?;
            // The index tells an interface of the same name that is another one.
            let same = |index: u32| known.host_ifindex.is_none_or(|told| told == index);
            if let Some(link) = host.filter(|link| link.veth && same(link.index)) {
                netlink.delete_link(&link).map_err(KernelError::from)?;
            }
        }
        Err(e)
            if e.refused()
                .is_some_and(|said| said.code == ErrorCode::UNKNOWN_CONTAINER) => {}
        Err(e) => return Err(with_interface(agent::cni_error(&e), delete_in_pod(target, path))),
    }
    delete_in_pod(target, path)?;
    agent
        .release(&target.container, &target.ifname)
        .await
        .map(drop)
        .map_err(|e| agent::cni_error(&e))
}

/// Deletes the interface by the pod's namespace, where that still is.
fn delete_in_pod(target: &Target, path: Option<&NetnsPath>) -> Result<(), CniError> {
    let Some(path) = path else { return Ok(()) };
    match open_netns(path) {
        Ok(netns) => Ok(pod::delete(&netns, &target.ifname)?),
        // With the namespace, its interfaces have gone. In the node's own nothing is heddle-cni's to delete.
        Err(KernelError::Netns(NetnsError::Gone { .. }) | KernelError::OwnNetns { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn with_interface(error: CniError, deleted: Result<(), CniError>) -> CniError {
    match deleted {
        Ok(()) => error,
        Err(e) => error.with_details(format!("nor could the interface be deleted: {e}")),
    }
}
