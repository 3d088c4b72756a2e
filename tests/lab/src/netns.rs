//! Network namespaces with a name under `/run/netns`, so that `ip netns` and `nsenter --net=` find them too.
//!
//! A thread enters one by setns(2) alone: `ip netns exec` would give a child a mount namespace of its own, and the
//! mounts that an agent makes there would vanish with it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{LabError, run};

const DIR: &str = "/run/netns";
const PREFIX: &str = "hdt-";

/// A network namespace of the laboratory; it goes away with the last clone, and with it all interfaces in it.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    file: File,
    keep: std::sync::atomic::AtomicBool,
}

impl NetNs {
    /// Makes a namespace `hdt-PID-N-LABEL` with `lo` up.
    ///
    /// # Errors
    /// No privilege (CAP_SYS_ADMIN), or the name cannot be mounted.
    pub fn create(label: &str) -> Result<Self, LabError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{PREFIX}{}-{}-{label}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(DIR).join(&name);
        fs::create_dir_all(DIR).map_err(LabError::io(format!("creating {DIR}")))?;
        File::create_new(&path).map_err(LabError::io(format!("creating {}", path.display())))?;
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

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The path that names the namespace, as `CNI_NETNS` wants it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Leaves the namespace standing when its guard goes (for `--keep`).
    pub fn keep(&self) {
        self.0.keep.store(true, Ordering::Relaxed);
    }

    /// Runs `f` on a thread of its own inside this namespace; processes that it starts are born there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `f` returns.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        in_thread(|| {
            setns(&self.0.file, CloneFlags::CLONE_NEWNET)
                .map_err(LabError::nix(format!("entering {}", self.0.name)))?;
            f()
        })
    }

    /// Starts a thread that lives in this namespace.
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
    /// As [`run`].
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        self.enter(|| run(program, args))
    }

    /// Writes a sysctl of the namespace, by its path below `/proc/sys`.
    ///
    /// # Errors
    /// It does not exist or cannot be written.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        self.enter(|| {
            fs::write(Path::new("/proc/sys").join(key), value).map_err(LabError::io(format!("sysctl {key}={value}")))
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    // Both may already be gone; there is nobody to tell who could do anything about it.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// A panic of `f` goes on in the caller.
fn in_thread<T: Send>(f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The process that a name of the laboratory speaks of, if that process is gone.
pub(crate) fn dead_owner(name: &str) -> Option<u32> {
    let pid = name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
    (!Path::new("/proc").join(format!("{pid}")).exists()).then_some(pid)
}

/// Removes namespaces whose process is gone and not among `spared`, and says which.
///
/// # Errors
/// `/run/netns` cannot be read.
pub(crate) fn sweep_leftovers(spared: &[u32]) -> Result<Vec<String>, LabError> {
    let entries = match fs::read_dir(DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(LabError::io(format!("reading {DIR}"))(e)),
    };
    let mut swept = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if dead_owner(&name).is_some_and(|pid| !spared.contains(&pid)) {
            remove(&entry.path());
            swept.push(name);
        }
    }
    Ok(swept)
}
