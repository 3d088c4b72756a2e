//! What can go wrong with the kernel, and the runtime that its sockets live on.

use std::io;

use heddle_proto::{CniError, ErrorCode};

use crate::netns::NetnsError;

/// The kernel refused a step.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A step failed.
    #[error("{what}: {source}")]
    Step {
        /// What was tried, with the names.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

impl KernelError {
    /// Names a step that failed.
    pub fn step(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Step { what, source }
    }
}

impl From<KernelError> for CniError {
    fn from(e: KernelError) -> Self {
        match e {
            KernelError::Step { what, source } => {
                let hint = match source.kind() {
                    io::ErrorKind::PermissionDenied => ": heddle-cni needs CAP_NET_ADMIN, run it as root",
                    _ => "",
                };
                Self::new(ErrorCode::KERNEL, format!("{what} failed{hint}")).with_details(source.to_string())
            }
            KernelError::Netns(e) => e.into(),
        }
    }
}

impl From<NetnsError> for CniError {
    fn from(e: NetnsError) -> Self {
        let code = match e {
            NetnsError::Gone { .. } => ErrorCode::UNKNOWN_CONTAINER,
            NetnsError::Forbidden { .. } => return Self::new(ErrorCode::KERNEL, e.to_string()),
            NetnsError::Own { .. } | NetnsError::Unusable { .. } => ErrorCode::INVALID_ENVIRONMENT,
        };
        Self::new(code, format!("CNI_NETNS: {e}"))
    }
}

/// A runtime for one thread; sockets opened on it belong to the thread's namespace.
///
/// # Errors
/// The system gives no more descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime, KernelError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(KernelError::step("starting"))
}
