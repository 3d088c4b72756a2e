//! The programs and images that a cluster is made of, as `scripts/cluster.sh` builds them.

use std::env;
use std::path::{Path, PathBuf};

use heddle_lab::LabError;
use heddle_lab::control_plane::KubernetesBinaries;

/// The environment variable that names their folder.
const FOLDER: &str = "HEDDLE_CLUSTER";

/// The folders of the programs and images.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    kubernetes: KubernetesBinaries,
}

impl Programs {
    /// Finds the folder that `$HEDDLE_CLUSTER` names, and the programs of Kubernetes.
    ///
    /// # Errors
    /// The variable is not set, or a program is missing.
    pub fn find() -> Result<Self, LabError> {
        let folder = env::var_os(FOLDER).ok_or_else(|| missing(format!("{FOLDER} is not set")))?;
        let found = Self {
            folder: folder.into(),
            kubernetes: KubernetesBinaries::find()?,
        };
        for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            let path = found.folder.join("bin").join(program);
            if !path.is_file() {
                return Err(missing(format!("{} is not there", path.display())));
            }
        }
        for program in ["kubelet", "kube-scheduler"] {
            found.kubernetes(program)?;
        }
        Ok(found)
    }

    /// Returns the folders of the programs, as `$PATH` has them.
    #[must_use]
    pub fn search_path(&self) -> String {
        let kubernetes = self.kubernetes.path("");
        format!("{}:{}", self.folder.join("bin").display(), kubernetes.display())
    }

    /// Returns the folder of the image archives that each node imports.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// Returns the path of a program of Kubernetes.
    ///
    /// # Errors
    /// It was not built.
    pub fn kubernetes(&self, name: &str) -> Result<PathBuf, LabError> {
        let path = self.kubernetes.path(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(missing(format!("{} is not there", path.display())))
    }
}

fn missing(what: String) -> LabError {
    LabError::Reply {
        what,
        detail: "run `make e2e-cluster`, which builds everything that it needs".to_owned(),
    }
}

/// Returns the project's folder.
#[must_use]
pub fn project() -> &'static Path {
    // tests/cluster
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own)
}
