//! The `nft` program, run as a child process with a time limit.
//!
//! heddle's whole table is replaced in one transaction of the kernel, so a killed child leaves either the old table or the new
//! one.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::HostError;
use crate::nft::{Table, ruleset};

/// The time limit of one call. `nft` needs at most a second for thousands of Services; a child that takes longer hangs.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// The `nft` program.
#[derive(Debug, Clone)]
pub struct Nft(PathBuf);

impl Default for Nft {
    fn default() -> Self {
        Self::new("nft")
    }
}

impl Nft {
    /// Names the program; a name without a slash is looked up in `PATH`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self(program.into())
    }

    /// Replaces heddle's table.
    ///
    /// # Errors
    /// `nft` is missing, refuses, or exceeds the time limit.
    pub async fn replace(&self, table: &Table) -> Result<(), HostError> {
        self.run(&["-f", "-"], &ruleset(table)).await.map(drop)
    }

    /// Returns heddle's table as `nft` lists it; `None` if there is no such table.
    ///
    /// # Errors
    /// `nft` is missing, fails for another reason than the table's absence, or exceeds the time limit.
    pub async fn list(&self) -> Result<Option<String>, HostError> {
        match self.run(&["list", "table", "inet", "heddle"], "").await {
            Ok(listing) => Ok(Some(listing)),
            // The message for ENOENT in the C locale.
            Err(HostError::Nft(message)) if message.contains("No such file or directory") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes heddle's table and returns `false` if there was none.
    ///
    /// # Errors
    /// See [`Nft::list`].
    pub async fn remove(&self) -> Result<bool, HostError> {
        if self.list().await?.is_none() {
            return Ok(false);
        }
        self.run(&["delete", "table", "inet", "heddle"], "").await.map(|_| true)
    }

    /// Runs the program and returns its standard output. The child is killed when the time limit passes and when the
    /// caller drops this future.
    async fn run(&self, args: &[&str], input: &str) -> Result<String, HostError> {
        let mut child = Command::new(&self.0)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| HostError::NftMissing(format!("cannot be started ({e}); install nftables")))?;
        let stdin = child.stdin.take();
        let complete = async {
            if let Some(mut stdin) = stdin {
                // If the child ends without reading, its exit status is the error.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let Output { status, stdout, stderr } = tokio::time::timeout(TIME_LIMIT, complete)
            .await
            .map_err(|_| HostError::NftSlow(TIME_LIMIT))?
            .map_err(|e| HostError::Nft(e.to_string()))?;
        if status.success() {
            Ok(String::from_utf8_lossy(&stdout).into_owned())
        } else {
            Err(HostError::Nft(format!(
                "{} ({status})",
                String::from_utf8_lossy(&stderr).trim()
            )))
        }
    }
}
