//! The binaries under test.

use std::path::PathBuf;

use crate::LabError;

/// The paths of the binaries under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `heddle`.
    pub heddle: PathBuf,
    /// `heddle-cni`.
    pub cni: PathBuf,
}

impl Binaries {
    /// Finds both binaries in the folder of the running executable, or in its parent (cargo puts test executables into `deps/`).
    ///
    /// # Errors
    /// One of the binaries is in neither folder.
    pub fn beside_current_exe() -> Result<Self, LabError> {
        let exe = std::env::current_exe().map_err(LabError::io("finding the path of this executable"))?;
        let find = |name: &str| {
            exe.ancestors()
                .skip(1)
                .take(2)
                .map(|dir| dir.join(name))
                .find(|path| path.is_file())
                .ok_or_else(|| LabError::Reply {
                    what: format!("looking for {name} beside {}", exe.display()),
                    detail: "it is not there; build it into the same folder (`make build`)".to_owned(),
                })
        };
        Ok(Self {
            heddle: find("heddle")?,
            cni: find("heddle-cni")?,
        })
    }
}
