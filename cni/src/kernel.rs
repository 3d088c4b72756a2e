//! The errors of steps that the kernel refused, and their conversion to CNI errors.

use std::io;

use heddle_linux::{LinuxError, Netns, NetnsError};
use heddle_proto::{CniError, ErrorCode, NetnsPath};

/// A failed step in a pod's network namespace or on the node's interfaces.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused a step.
    #[error(transparent)]
    Step(#[from] LinuxError),
    /// The namespace could not be opened or entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// `CNI_NETNS` is the namespace that the plugin runs in.
    #[error("{path} is the node's own network namespace: heddle-cni gives interfaces to containers only")]
    OwnNetns {
        /// `CNI_NETNS`.
        path: String,
    },
}

impl KernelError {
    /// Returns the error for an interface that was there a moment ago.
    pub(crate) fn vanished(interface: &str) -> Self {
        Self::Step(LinuxError::step(format!("finding interface {interface}"))(
            io::ErrorKind::NotFound.into(),
        ))
    }
}

impl From<KernelError> for CniError {
    fn from(e: KernelError) -> Self {
        match e {
            KernelError::Step(LinuxError { step, source }) => {
                let hint = match source.kind() {
                    io::ErrorKind::PermissionDenied => ": heddle-cni needs CAP_NET_ADMIN, run it as root",
                    _ => "",
                };
                Self::new(ErrorCode::KERNEL, format!("{step} failed{hint}")).with_details(source.to_string())
            }
            KernelError::Netns(e) => {
                let code = match e {
                    NetnsError::Gone { .. } => ErrorCode::UNKNOWN_CONTAINER,
                    NetnsError::Forbidden { .. } => return Self::new(ErrorCode::KERNEL, e.to_string()),
                    NetnsError::Unusable { .. } => ErrorCode::INVALID_ENVIRONMENT,
                };
                Self::new(code, format!("CNI_NETNS: {e}"))
            }
            KernelError::OwnNetns { .. } => Self::new(ErrorCode::INVALID_ENVIRONMENT, format!("CNI_NETNS: {e}")),
        }
    }
}

/// Opens the pod's network namespace.
///
/// # Errors
/// It cannot be opened, or it is the namespace that the plugin runs in.
pub fn open_netns(path: &NetnsPath) -> Result<Netns, KernelError> {
    let netns = Netns::open(path.as_str())?;
    if netns.is_current()? {
        return Err(KernelError::OwnNetns {
            path: path.as_str().to_owned(),
        });
    }
    Ok(netns)
}
