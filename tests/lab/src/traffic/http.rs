//! An HTTP client that keeps its connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{LabError, NetNs};

/// A client that sends many requests to a [`super::ServerBehavior::Http`] server on one connection.
#[derive(Debug)]
pub struct HttpClient(BufReader<TcpStream>);

impl HttpClient {
    /// Connects. `bound` limits the connection attempt and each later answer.
    ///
    /// # Errors
    /// The connection is not made in time.
    pub fn connect(from: &NetNs, to: SocketAddr, bound: Duration) -> Result<Self, LabError> {
        let stream = from.enter(move || {
            TcpStream::connect_timeout(&to, bound).map_err(LabError::io(format!("connecting to {to}")))
        })?;
        stream
            .set_read_timeout(Some(bound))
            .map_err(LabError::io("setting a read timeout"))?;
        stream.set_nodelay(true).map_err(LabError::io("setting TCP_NODELAY"))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request and returns the answer's text.
    ///
    /// # Errors
    /// The connection broke, no answer came in time, or the answer is not HTTP.
    pub fn get(&mut self) -> Result<String, LabError> {
        let mut get = || -> io::Result<String> {
            self.0.get_ref().write_all(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n")?;
            let (mut line, mut length) = (String::new(), None);
            while line != "\r\n" {
                line.clear();
                if self.0.read_line(&mut line)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().ok();
                }
            }
            let mut text = vec![0; length.ok_or(ErrorKind::InvalidData)?];
            self.0.read_exact(&mut text)?;
            String::from_utf8(text).map_err(|_| ErrorKind::InvalidData.into())
        };
        get().map_err(LabError::io("an HTTP request"))
    }
}
