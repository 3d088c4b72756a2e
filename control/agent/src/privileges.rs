//! The capabilities that the agent needs.

use caps::{CapSet, Capability};

/// The capabilities that the agent needs, with their purpose. CAP_SYS_ADMIN includes CAP_BPF.
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
    /// The first of the needed capabilities that the process lacks.
    #[error("{capability} is missing ({purpose}): run heddle as root, or grant it")]
    Missing {
        /// The name.
        capability: Capability,
        /// The purpose.
        purpose: &'static str,
    },
    /// The process's capabilities cannot be read.
    #[error("cannot read this process's capabilities: {0}")]
    System(#[from] caps::errors::CapsError),
}

/// Checks that this process has every capability that the agent needs. `run` calls it first.
///
/// # Errors
/// A capability is missing, or the process's capabilities cannot be read.
pub fn check() -> Result<(), PrivilegeError> {
    let held = caps::read(None, CapSet::Effective)?;
    missing_of(|capability| held.contains(&capability))
}

/// Returns every needed capability that this process lacks, with its purpose, for `heddle check`.
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

/// Returns an error for the first needed capability that is not held.
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
            let error = missing_of(|c| c != *capability).unwrap_err().to_string();
            assert!(
                error.contains(&capability.to_string()) && error.lines().count() == 1,
                "{error}"
            );
        }
    }
}
