//! Network namespaces with names under `/run/netns`, where `ip netns` and `nsenter --net=` find them too.
//!
//! A thread enters a namespace by setns(2) alone. `ip netns exec` would also give the child its own mount namespace,
//! and the mounts that an agent makes would disappear with it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{LabError, run};

const DIR: &str = "/run/netns";
/// The first part of the names of all namespaces and folders of a laboratory; the process id follows.
pub(crate) const PREFIX: &str = "hdt-";

/// A network namespace of the laboratory. Dropping the last clone removes it and all interfaces in it.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    file: File,
    keep: AtomicBool,
}

impl NetNs {
    /// Makes a namespace `hdt-PID-N-LABEL` with `lo` up.
    ///
    /// # Errors
    /// The process lacks CAP_SYS_ADMIN, or the name cannot be mounted.
    pub fn create(label: &str) -> Result<Self, LabError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{PREFIX}{}-{}-{label}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(DIR).join(&name);
        share_folder()?;
        File::create_new(&path).map_err(LabError::io(format!("creating {}", path.display())))?;
        // unshare(2) moves the calling thread: a thread of its own keeps the caller where it is.
        let made = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(LabError::nix("making a network namespace (needs CAP_SYS_ADMIN)"))?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(LabError::nix(format!("mounting {}", path.display())))?;
            run("ip", &["link", "set", "lo", "up"]).map(drop)
        });
        let file = made.and_then(|()| File::open(&path).map_err(LabError::io(format!("opening {}", path.display()))));
        match file {
            Ok(file) => Ok(Self(Arc::new(Inner {
                name,
                path,
                file,
                keep: false.into(),
            }))),
            Err(e) => {
                remove(&path);
                Err(e)
            }
        }
    }

    /// Opens a namespace that others made and remove, by the path of its file. `name` is for messages.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, name: &str) -> Result<Self, LabError> {
        let file = File::open(path).map_err(LabError::io(format!("opening {}", path.display())))?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            path: path.to_owned(),
            file,
            keep: true.into(),
        })))
    }

    /// Returns the name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the path of the namespace, as `CNI_NETNS` contains it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Leaves the namespace standing when its guard is dropped (for `heddle demo --keep`).
    pub fn keep(&self) {
        self.0.keep.store(true, Ordering::Relaxed);
    }

    /// Runs `f` on a thread of its own inside this namespace and waits for it. Processes that `f` starts are in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `f` fails.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        in_thread(|| {
            setns(&self.0.file, CloneFlags::CLONE_NEWNET)
                .map_err(LabError::nix(format!("entering {}", self.0.name)))?;
            f()
        })
    }

    /// Runs `f` on a thread of its own inside this namespace, as user and group 65534 without capabilities, and waits for it.
    /// Files and sockets that `f` returns stay open and belong to that user.
    ///
    /// # Errors
    /// The namespace cannot be entered, the user cannot be changed, or `f` fails.
    pub fn enter_as_nobody<T: Send>(&self, f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        const NOBODY: u32 = 65_534;
        self.enter(|| {
            // These calls change the calling thread alone; without a user id 0, the kernel takes its capabilities away.
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            set_thread_groups(&[])
                .and_then(|()| set_thread_res_gid(group, group, group))
                .and_then(|()| set_thread_res_uid(user, user, user))
                .map_err(|e| LabError::io("becoming nobody")(e.into()))?;
            f()
        })
    }

    /// Starts a thread in this namespace.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> Result<T, LabError> + Send + 'static,
    ) -> Result<std::thread::JoinHandle<Result<T, LabError>>, LabError> {
        let ns = self.clone();
        std::thread::Builder::new()
            .name(format!("in {}", self.0.name))
            .spawn(move || {
                setns(&ns.0.file, CloneFlags::CLONE_NEWNET)
                    .map_err(LabError::nix(format!("entering {}", ns.0.name)))?;
                f()
            })
            .map_err(LabError::io("starting a thread"))
    }

    /// Runs a command to its end inside the namespace.
    ///
    /// # Errors
    /// The command cannot be started, does not end, or fails, as for [`run`].
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        self.enter(|| run(program, args))
    }

    /// Sets a sysctl of the namespace, by its path below `/proc/sys`.
    ///
    /// # Errors
    /// The sysctl does not exist or cannot be written.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        self.enter(|| {
            fs::write(Path::new("/proc/sys").join(key), value).map_err(LabError::io(format!("sysctl {key}={value}")))
        })
    }
}

impl NetNs {
    /// Turns on forwarding between the namespace's interfaces, in both families.
    pub(crate) fn forward(&self) -> Result<(), LabError> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            remove(&self.path);
        }
    }
}

/// Makes the folder of the names a shared mount of itself, unless it is one, as `ip netns add` does before anything is mounted in it.
/// Otherwise that command would mount the folder over the namespaces that are in it: each is then mounted twice, and the one below
/// cannot be unmounted.
fn share_folder() -> Result<(), LabError> {
    let failed = || LabError::nix(format!("making {DIR} a shared mount (needs CAP_SYS_ADMIN)"));
    let none = None::<&str>;
    fs::create_dir_all(DIR).map_err(LabError::io(format!("creating {DIR}")))?;
    // The lock of `ip netns add`: two processes must not do this at a time.
    let folder = File::open(DIR).map_err(LabError::io(format!("opening {DIR}")))?;
    let _lock = Flock::lock(folder, FlockArg::LockExclusive)
        .map_err(|(_, e)| LabError::io(format!("locking {DIR}"))(e.into()))?;
    let share = || mount(none, DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // It is no mount point (mount(2)).
        Err(Errno::EINVAL) => {
            mount(Some(DIR), DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(failed())?;
            share().map_err(failed())
        }
        done => done.map_err(failed()),
    }
}

fn remove(path: &Path) {
    // Either may already be gone, and a guard has nobody to report a failure to.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Runs `f` on a thread of its own. A panic of `f` continues in the caller.
fn in_thread<T: Send>(f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Returns the process id in a name of a laboratory, if that process has ended.
pub(crate) fn dead_owner(name: &str) -> Option<u32> {
    let pid = name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
    (!Path::new("/proc").join(format!("{pid}")).exists()).then_some(pid)
}

/// Removes the namespaces of processes that have ended and are not in `kept_pids`, and returns their names.
pub(crate) fn remove_dead(kept_pids: &[u32]) -> Result<Vec<String>, LabError> {
    let entries = match fs::read_dir(DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(LabError::io(format!("reading {DIR}"))(e)),
    };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if dead_owner(&name).is_some_and(|pid| !kept_pids.contains(&pid)) {
            remove(&entry.path());
            removed.push(name);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `f` in a mount namespace of its own, whose `/run` is empty.
    fn with_empty_run(f: impl FnOnce() -> Result<(), LabError> + Send) {
        let done = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).map_err(LabError::nix("making a mount namespace"))?;
            let change = |source, target, kind, flags| {
                mount(source, target, kind, flags, None::<&str>).map_err(LabError::nix(format!("mounting {target}")))
            };
            change(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
            change(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty())?;
            f()
        });
        done.unwrap();
    }

    /// `ip netns add` mounts the folder over itself if nobody has. What was mounted in it before is then mounted twice.
    #[test]
    fn a_namespace_goes_whoever_makes_one_beside_it() {
        with_empty_run(|| {
            let ns = NetNs::create("first")?;
            run("ip", &["netns", "add", "beside"])?;
            let later = NetNs::create("later")?;
            run("ip", &["netns", "delete", "beside"])?;
            drop((ns, later));
            let left: Vec<_> = fs::read_dir(DIR).map_err(LabError::io(DIR))?.flatten().collect();
            assert!(left.is_empty(), "{left:?}");
            Ok(())
        });
    }
}
