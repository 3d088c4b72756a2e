//! Finds configurations of others that the container runtime prefers.

use std::fs;
use std::io;
use std::path::Path;

use super::install::CONFIG_FILE;

/// The extensions of network configurations. containerd and CRI-O take the first file by name that has one of them.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Returns the names of the configurations in a directory that sort before heddle's, in their order.
///
/// # Errors
/// The directory cannot be read. A missing one is no error.
pub fn before_ours(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && *name < *CONFIG_FILE {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configurations_that_sort_before_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "10-flannel.conflist",
            "05-cilium.conf",
            "05-cilium.conf.bak",
            "10-heddle.conflist",
            "10-heddle.conflist.new",
            "87-podman.conflist",
            "README",
        ] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        assert_eq!(
            before_ours(dir.path()).unwrap(),
            ["05-cilium.conf", "10-flannel.conflist"]
        );
        assert!(before_ours(&dir.path().join("absent")).unwrap().is_empty());
    }
}
