//! The directories into which the agent installs the CNI plugin.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

/// The directories into which the agent installs the CNI plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CniDirs {
    /// The directory of network configurations; `null`: the administrator writes the configuration.
    pub config_dir: Option<PathBuf>,
    /// The directory of plugins; `null`: the administrator copies the binary.
    pub bin_dir: Option<PathBuf>,
}

impl CniDirs {
    /// Checks that the paths are absolute: the container runtime reads the same directories from elsewhere.
    ///
    /// # Errors
    /// The first path that is not absolute, by key.
    pub(crate) fn check(self) -> Result<Self, ConfigError> {
        for (key, dir) in [("cni.configDir", &self.config_dir), ("cni.binDir", &self.bin_dir)] {
            if let Some(dir) = dir.as_ref().filter(|dir| !dir.is_absolute()) {
                let value = format!("{:?}", dir.display().to_string());
                return Err(ConfigError::value(key, value, "is not an absolute path"));
            }
        }
        Ok(self)
    }
}
