//! Requests to etcd by the JSON form of its API.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::processes::{ControlPlane, ETCD};
use crate::LabError;

/// The bound of a request.
const BOUND: Duration = Duration::from_secs(10);

impl ControlPlane {
    /// Removes all old versions of all objects from etcd, so that no watch can go on from one of them.
    ///
    /// # Errors
    /// etcd does not answer, or refuses.
    pub fn compact(&self) -> Result<(), LabError> {
        // Any key will do: the header of every answer has the newest revision.
        let newest = self.ask_etcd("/v3/kv/range", &json!({"key": "AA=="}))?;
        let revision = newest["header"]["revision"].clone();
        self.ask_etcd("/v3/kv/compaction", &json!({"revision": revision, "physical": true}))
            .map(drop)
    }

    fn ask_etcd(&self, path: &str, body: &Value) -> Result<Value, LabError> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let bad = |detail: String| LabError::Reply {
            what: format!("etcd, {path}"),
            detail,
        };
        let address: SocketAddr = ETCD.parse().map_err(|_| bad(format!("{ETCD} is no address")))?;
        let answer = self.ns().enter(|| {
            let exchange = || -> io::Result<String> {
                let mut stream = TcpStream::connect_timeout(&address, BOUND)?;
                stream.set_read_timeout(Some(BOUND))?;
                stream.write_all(request.as_bytes())?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            };
            exchange().map_err(LabError::io(format!("asking etcd, {path}")))
        })?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => {
                serde_json::from_str(body).map_err(|e| bad(format!("{e}: {body}")))
            }
            _ => Err(bad(answer)),
        }
    }
}
