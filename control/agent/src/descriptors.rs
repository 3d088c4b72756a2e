//! The limit of open files (`RLIMIT_NOFILE`): raised at the start, and compared with what `maxPods` needs.
//!
//! Each pod's port takes descriptors. An agent without a free one can neither open ports nor ask the kernel anything, so the
//! agent never plans to use all of them: clients' connections are bounded, and a reserve is left for requests to the kernel.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::health::MOST_CONNECTIONS;

/// The descriptors of a port: its socket, a copy by which its rings are observed, and its packet socket for large segments.
const PER_PORT: u64 = 3;
/// The descriptors of a worker beside its queue of the host port: its epoll instance and its eventfd.
const PER_WORKER: u64 = 2;
/// The descriptors that every agent has: the XDP program and its maps, the UMEM's anchor, the files of the flow table, of the
/// locks and of the manifest folder, the runtimes, the sockets. About 40 are open in an idle agent.
const FIXED: u64 = 64;
/// Room for the listening sockets of health checks (one for each Service with `healthCheckNodePort`), and for clients of the
/// agent's own sockets.
const SOCKETS: u64 = 256;
/// Descriptors for requests to the kernel, files that are written, and child processes.
const RESERVE: u64 = 64;

/// The limit does not even leave room for one pod.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit of open files (RLIMIT_NOFILE) is {limit} and cannot be raised, but the agent needs {needed} for maxPods: \
     {max_pods} with {workers} workers: raise it (systemd: LimitNOFILE={needed}; container: ulimit nofile={needed})"
)]
pub struct TooFew {
    /// The limit.
    limit: u64,
    /// The descriptors that are needed.
    needed: u64,
    /// The most pods.
    max_pods: u16,
    /// The number of workers.
    workers: u64,
}

/// Returns the descriptors that an agent needs.
#[must_use]
pub fn needed(workers: u64, max_pods: u16) -> u64 {
    without_pods(workers) + u64::from(max_pods) * PER_PORT
}

/// Returns the descriptors that an agent without pods needs.
fn without_pods(workers: u64) -> u64 {
    FIXED + SOCKETS + RESERVE + MOST_CONNECTIONS as u64 + workers * (PER_WORKER + PER_PORT)
}

/// Returns the most pods, up to `max_pods`, whose ports fit into a limit.
#[must_use]
pub fn pods_within(limit: u64, workers: u64, max_pods: u16) -> u16 {
    let pods = limit.saturating_sub(without_pods(workers)) / PER_PORT;
    max_pods.min(u16::try_from(pods).unwrap_or(u16::MAX))
}

/// Raises the limit to the hard limit, and the hard limit as far as `maxPods` needs and the kernel allows. Returns the most
/// pods that the agent can have: `max_pods`, or fewer, with a warning. Called at the start.
///
/// # Errors
/// There is no room for a pod.
pub fn raise(workers: u64, max_pods: u16) -> Result<u16, TooFew> {
    let needed = needed(workers, max_pods);
    let limit = raise_to(needed).unwrap_or_else(|e| {
        tracing::warn!("cannot read or set the limit of open files (RLIMIT_NOFILE): {e}");
        needed
    });
    let pods = pods_within(limit, workers, max_pods);
    if pods == 0 {
        return Err(TooFew {
            limit,
            needed,
            max_pods,
            workers,
        });
    }
    if pods < max_pods {
        tracing::warn!(
            "the limit of open files (RLIMIT_NOFILE) is {limit} and cannot be raised, but maxPods: {max_pods} needs {needed}: \
             this agent takes at most {pods} pods; raise the limit (systemd: LimitNOFILE={needed}; container: ulimit \
             nofile={needed}) or lower maxPods"
        );
    }
    Ok(pods)
}

/// Raises the limit as far as possible, the hard limit only if it is below `needed`. Returns the limit that then applies.
fn raise_to(needed: u64) -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Raising the hard limit takes CAP_SYS_RESOURCE and stays below fs.nr_open.
    if hard < needed && setrlimit(Resource::RLIMIT_NOFILE, needed, needed).is_ok() {
        return Ok(needed);
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_that_fit_need_no_more_than_the_limit() {
        assert_eq!(pods_within(needed(1, 110), 1, 110), 110);
        assert_eq!(pods_within(needed(1, 110) - 1, 1, 110), 109);
        assert_eq!(pods_within(u64::MAX, 64, 1024), 1024);
        for limit in [0, 64, 600, 1024, 4096, 524_288] {
            for workers in [1, 2, 64] {
                let pods = pods_within(limit, workers, 500);
                assert!(pods == 0 || needed(workers, pods) <= limit, "{limit} {workers}");
            }
        }
    }

    #[test]
    fn the_usual_limit_of_a_login_shell_has_room_for_a_kubelets_default() {
        assert!(pods_within(1024, 2, 110) >= 110);
    }

    #[test]
    fn the_error_names_all_numbers() {
        let error = TooFew {
            limit: 256,
            needed: needed(1, 110),
            max_pods: 110,
            workers: 1,
        };
        let text = error.to_string();
        for part in ["256", "110", "LimitNOFILE=975"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
