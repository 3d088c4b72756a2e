//! Writes the plugin's binary and the network configuration, each by a rename: the runtime never finds half of one.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use heddle_config::CniDirs;
use heddle_host::state_file;
use heddle_proto::DEFAULT_RUN_DIR;
use serde_json::{Value, json};

use super::record::{self, RecordError};

/// The name of the configuration.
pub const CONFIG_FILE: &str = "10-heddle.conflist";
/// The name of the plugin's binary, and the plugin's type in the configuration.
const PLUGIN: &str = "heddle-cni";

/// A file that cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The record of installed files cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The configuration is someone else's.
    #[error(
        "{} was not written by the agent, so it stays: move it away, or set cni.configDir to null to keep it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// The files to install, and their places.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The directories.
    pub(super) dirs: CniDirs,
    /// The state directory, which has the record.
    pub(super) state_dir: PathBuf,
    /// The run directory, which the plugin must know.
    pub(super) run_dir: PathBuf,
    /// The binary to copy. It stays the same for as long as the agent runs.
    pub(super) binary: PathBuf,
    /// The installed binary when it was last compared; `None` at the start.
    pub(super) compared: Option<Stamp>,
}

/// The state of a file that changes with each change of its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    mode: u32,
    /// The time of the last change of the contents or of the mode, in seconds and nanoseconds. No program can set it.
    changed_at: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of a file; `None` if it cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.size(),
            mode: file.mode(),
            changed_at: (file.ctime(), file.ctime_nsec()),
        })
    }
}

impl Plan {
    /// Installs the files that are missing or differ, the binary first: a configuration without its plugin would fail every ADD.
    /// Returns the paths that were written.
    pub(super) fn install(&mut self) -> Result<Vec<PathBuf>, InstallError> {
        let mut written = Vec::new();
        if let Some(path) = self.dirs.bin_dir.as_ref().map(|dir| dir.join(PLUGIN)) {
            // Megabytes are not read again every 30 seconds while nothing has changed.
            let stamp = Stamp::of(&path);
            if stamp.is_none() || stamp != self.compared {
                if self.install_binary(&path, stamp)? {
                    written.push(path.clone());
                }
                self.compared = Stamp::of(&path);
            }
        }
        if let Some(dir) = &self.dirs.config_dir {
            let path = dir.join(CONFIG_FILE);
            let contents = network_config(&self.run_dir);
            match read(&path)? {
                Some(present) if present == contents.as_bytes() => record::add(&self.state_dir, &path)?,
                Some(present) if !self.is_ours(&path, &present)? => return Err(InstallError::Foreign { path }),
                _ => {
                    self.write(&path, contents.as_bytes(), 0o600)?;
                    written.push(path);
                }
            }
        }
        Ok(written)
    }

    /// Installs the binary, unless it is in place. Returns `true` if it was written.
    fn install_binary(&self, path: &Path, present: Option<Stamp>) -> Result<bool, InstallError> {
        let contents = read(&self.binary)?.ok_or_else(|| InstallError::Read {
            path: self.binary.clone(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let is_executable = present.is_some_and(|file| file.mode & 0o111 == 0o111);
        if is_executable && read(path)?.as_ref() == Some(&contents) {
            return Ok(false);
        }
        self.write(path, &contents, 0o755)?;
        Ok(true)
    }

    /// Returns `true` if an agent has written a configuration: it is recorded, or it has the form of an agent's with another
    /// run directory (the state directory may have been deleted).
    fn is_ours(&self, path: &Path, contents: &[u8]) -> Result<bool, InstallError> {
        if record::recorded(&self.state_dir)?.contains(path) {
            return Ok(true);
        }
        let Ok(found) = serde_json::from_slice::<Value>(contents) else {
            return Ok(false);
        };
        let run_dir = found["plugins"][0]["runDir"].as_str().unwrap_or(DEFAULT_RUN_DIR);
        Ok(found == config_value(Path::new(run_dir)))
    }

    /// Records a file and replaces it.
    fn write(&self, path: &Path, contents: &[u8], mode: u32) -> Result<(), InstallError> {
        record::add(&self.state_dir, path)?;
        state_file::replace_with(path, |file| {
            file.write_all(contents)?;
            file.set_permissions(Permissions::from_mode(mode))
        })
        .map_err(|source| InstallError::Write {
            path: path.to_owned(),
            source,
        })
    }
}

/// Reads a file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(InstallError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Returns the network configuration as text.
fn network_config(run_dir: &Path) -> String {
    format!("{:#}\n", config_value(run_dir))
}

/// Returns the network configuration. The runtime passes host ports only to a plugin with the capability `portMappings`.
fn config_value(run_dir: &Path) -> Value {
    let mut plugin = json!({"type": PLUGIN, "capabilities": {"portMappings": true}});
    if run_dir != Path::new(DEFAULT_RUN_DIR) {
        plugin["runDir"] = json!(run_dir.display().to_string());
    }
    json!({"cniVersion": "1.1.0", "name": "heddle", "plugins": [plugin]})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan in a folder of its own, with a binary.
    fn plan(dir: &Path) -> Plan {
        let binary = dir.join("image/heddle-cni");
        fs::create_dir_all(dir.join("image")).unwrap();
        fs::write(&binary, "the plugin").unwrap();
        Plan {
            dirs: CniDirs {
                config_dir: Some(dir.join("net.d")),
                bin_dir: Some(dir.join("bin")),
            },
            state_dir: dir.join("state"),
            run_dir: dir.join("run"),
            binary,
            compared: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn missing_and_changed_files_are_written_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(dir.path());
        let (binary, config) = (
            dir.path().join("bin/heddle-cni"),
            dir.path().join("net.d/10-heddle.conflist"),
        );
        assert_eq!(plan.install().unwrap(), [binary.clone(), config.clone()]);
        assert_eq!((mode(&binary), mode(&config)), (0o755, 0o600));
        let text: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        let run_dir = dir.path().join("run").display().to_string();
        assert_eq!(
            text["plugins"],
            json!([{"type": "heddle-cni", "runDir": run_dir, "capabilities": {"portMappings": true}}])
        );
        // Nothing has changed.
        assert!(plan.install().unwrap().is_empty());
        // A newer agent's binary, and a file that somebody has removed or changed, also with the same length.
        fs::write(&plan.binary, "a newer plugin").unwrap();
        plan.compared = None;
        assert_eq!(plan.install().unwrap(), std::slice::from_ref(&binary));
        fs::write(&binary, "another plugin").unwrap();
        assert_eq!(plan.install().unwrap(), std::slice::from_ref(&binary));
        fs::write(&config, "{}").unwrap();
        fs::set_permissions(&binary, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(plan.install().unwrap(), [binary, config]);
        assert_eq!(record::recorded(&plan.state_dir).unwrap().len(), 2);
    }

    #[test]
    fn a_configuration_of_others_stays_and_an_earlier_agents_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(dir.path());
        let config = dir.path().join("net.d").join(CONFIG_FILE);
        fs::create_dir_all(dir.path().join("net.d")).unwrap();
        let mut edited = config_value(Path::new(DEFAULT_RUN_DIR));
        edited["plugins"][0]["mtu"] = json!(1400);
        for foreign in ["not JSON".to_owned(), edited.to_string()] {
            fs::write(&config, &foreign).unwrap();
            let error = plan.install().unwrap_err();
            assert!(matches!(error, InstallError::Foreign { .. }), "{error}");
            assert_eq!(fs::read_to_string(&config).unwrap(), foreign);
        }
        // The state directory is empty, but the form is an agent's.
        fs::write(&config, network_config(Path::new("/run/elsewhere"))).unwrap();
        assert_eq!(plan.install().unwrap(), [config]);
    }

    #[test]
    fn the_default_run_directory_is_not_written_and_absent_keys_install_nothing() {
        assert_eq!(
            config_value(Path::new(DEFAULT_RUN_DIR))["plugins"][0].get("runDir"),
            None
        );
        let dir = tempfile::tempdir().unwrap();
        let mut plan = Plan {
            dirs: CniDirs::default(),
            ..plan(dir.path())
        };
        assert!(plan.install().unwrap().is_empty());
        assert!(!plan.state_dir.exists());
    }
}
