//! The programs of the control plane.

use std::env;
use std::path::{Path, PathBuf};

use crate::LabError;

/// The module file that pins the version.
const MODULE: &str = include_str!("../../../kubernetes/go.mod");
/// The environment variable that names the folder of the programs.
const FOLDER: &str = "HEDDLE_KUBERNETES";

/// The paths of the programs.
#[derive(Debug, Clone)]
pub struct KubernetesBinaries {
    folder: PathBuf,
}

impl KubernetesBinaries {
    /// Finds the programs in `$HEDDLE_KUBERNETES`, or else where `make kubernetes` puts them.
    ///
    /// # Errors
    /// A program is not there.
    pub fn find() -> Result<Self, LabError> {
        let folder = env::var_os(FOLDER).map_or_else(default_folder, PathBuf::from);
        let found = Self { folder };
        for name in ["kube-apiserver", "kube-controller-manager", "kubectl"] {
            let path = found.path(name);
            if !path.is_file() {
                return Err(LabError::Reply {
                    what: format!("looking for {}", path.display()),
                    detail: "it is not there; build it with `make kubernetes`".to_owned(),
                });
            }
        }
        Ok(found)
    }

    /// Returns the path of a program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the version, as `1.36.3`.
    #[must_use]
    pub fn version() -> &'static str {
        let required = MODULE.lines().find_map(|line| {
            line.trim()
                .trim_start_matches("require ")
                .strip_prefix("k8s.io/kubernetes v")
        });
        required.map_or("", |version| version.split(' ').next().unwrap_or_default())
    }
}

fn default_folder() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(
        || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let version = KubernetesBinaries::version();
    cache.join(format!("heddle/kubernetes/v{version}/bin"))
}
