//! The netlink connection that the parts of this crate share.

use std::rc::Rc;

use heddle_linux::Netlink;

use crate::error::HostError;

/// A shared connection. It is used only on the thread that opened it.
pub type Handle = Rc<Netlink>;

/// Connects to the kernel in the calling thread's network namespace.
///
/// # Errors
/// The socket cannot be opened.
pub fn connect() -> Result<Handle, HostError> {
    Ok(Rc::new(Netlink::open()?))
}
