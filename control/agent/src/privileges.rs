//! Which capabilities the agent needs, and a one-line answer when one is missing.

use caps::{CapSet, Capability};

/// What each needed capability is for. CAP_BPF is looked at last: CAP_SYS_ADMIN includes it.
const NEEDED: &[(Capability, &str)] = &[
    (
        Capability::CAP_NET_ADMIN,
        "to make interfaces, routes and nftables rules",
    ),
    (Capability::CAP_NET_RAW, "to open AF_XDP sockets"),
    (
        Capability::CAP_SYS_ADMIN,
        "to load the XDP program and to mount under the run directory",
    ),
    (Capability::CAP_IPC_LOCK, "to share the packet memory with the kernel"),
];

/// A capability is missing.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// One of those needed.
    #[error("{capability} is missing ({purpose}): run heddle as root or grant it")]
    Missing {
        /// Its name.
        capability: Capability,
        /// What it is for.
        purpose: &'static str,
    },
    /// The process's capabilities cannot be read.
    #[error("reading this process's capabilities: {0}")]
    System(#[from] caps::errors::CapsError),
}

/// Checks that this process may do what an agent does.
///
/// # Errors
/// The first capability that is missing.
pub fn check() -> Result<(), PrivilegeError> {
    let held = caps::read(None, CapSet::Effective)?;
    missing_of(|capability| held.contains(&capability))
}

/// Every capability that this process lacks, and what it is for.
///
/// # Errors
/// The process's capabilities cannot be read.
pub fn missing() -> Result<Vec<(Capability, &'static str)>, PrivilegeError> {
    let held = caps::read(None, CapSet::Effective)?;
    Ok(NEEDED
        .iter()
        .filter(|(capability, _)| !held.contains(capability))
        .copied()
        .collect())
}

fn missing_of(held: impl Fn(Capability) -> bool) -> Result<(), PrivilegeError> {
    match NEEDED.iter().find(|(capability, _)| !held(*capability)) {
        Some(&(capability, purpose)) => Err(PrivilegeError::Missing { capability, purpose }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_one_is_named() {
        assert!(missing_of(|_| true).is_ok());
        for (capability, _) in NEEDED {
            let said = missing_of(|c| c != *capability).unwrap_err().to_string();
            assert!(
                said.contains(&capability.to_string()) && said.lines().count() == 1,
                "{said}"
            );
        }
    }
}
