//! The server as a process of its own, so that its memory and processor time are not the agent's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use heddle_lab::NetNs;

use super::plan::Plan;
use crate::BenchError;

/// The word before the address in the server's first line.
pub const LISTENS: &str = "listens at ";

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    /// Starts this executable as a server, in a namespace or in the caller's.
    ///
    /// # Errors
    /// The process cannot be started or does not say its address.
    pub fn start(plan: &Plan, listen: SocketAddr, ns: Option<&NetNs>) -> Result<Self, BenchError> {
        let exe = std::env::current_exe().map_err(BenchError::io("finding this executable"))?;
        let mut command = Command::new(exe);
        command
            .arg("serve")
            .arg(format!("--listen={listen}"))
            .args(plan.to_arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut spawn = || {
            command
                .spawn()
                .map_err(heddle_lab::LabError::io("starting the server of the cluster"))
        };
        let mut child = match ns {
            Some(ns) => ns.enter(spawn)?,
            None => spawn()?,
        };
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(BenchError::io("reading the server's address"))?;
        }
        let address = line.trim().strip_prefix(LISTENS).and_then(|text| text.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            return Err(BenchError::Unexpected {
                what: "the server's first line".to_owned(),
                expected: format!("{LISTENS}ADDRESS"),
                got: line,
            });
        };
        Ok(Self { child, address })
    }

    /// Returns its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig that leads to the server.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_kubeconfig(&self, dir: &Path) -> Result<PathBuf, BenchError> {
        let path = dir.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: bench\n\
             clusters: [{{name: bench, cluster: {{server: 'http://{}'}}}}]\n\
             users: [{{name: bench, user: {{}}}}]\n\
             contexts: [{{name: bench, context: {{cluster: bench, user: bench}}}}]\n",
            self.address
        );
        std::fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
        Ok(path)
    }

    /// Sets the changes a second.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn set_rate(&self, events: u64) -> Result<(), BenchError> {
        get(self.address, &format!("/bench/rate?events={events}")).map(drop)
    }

    /// Returns the changes and the bytes that were sent to watches.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn sent(&self) -> Result<(u64, u64), BenchError> {
        let text = get(self.address, "/bench/sent")?;
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let number = |field: &str| value[field].as_u64().unwrap_or(0);
        Ok((number("events"), number("bytes")))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a path, and returns the body of the answer.
///
/// # Errors
/// There is no answer within 5 s.
pub fn get(address: SocketAddr, path: &str) -> Result<String, BenchError> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default())
    };
    asked().map_err(BenchError::io(format!("asking {path} at {address}")))
}
