//! The modes of XDP programs.

use std::fmt;

/// The place where an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum XdpMode {
    /// In the device's driver, before the kernel makes a socket buffer.
    Native,
    /// In the network stack: every device supports it, but it is slower.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}
