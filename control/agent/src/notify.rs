//! Notifications to the service manager by the protocol of sd_notify(3): a datagram to the socket that `$NOTIFY_SOCKET`
//! names. Without that variable nothing is sent.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends the service manager a state, such as `READY=1`. `run` calls it when the agent is ready and when it stops.
///
/// # Errors
/// Sending to the socket that `$NOTIFY_SOCKET` names fails.
pub fn send_state(state: &str) -> io::Result<()> {
    match std::env::var("NOTIFY_SOCKET") {
        Ok(name) if !name.is_empty() => send(&name, state),
        _ => Ok(()),
    }
}

/// Sends a state to the socket of this name: a path, or `@` and an abstract name.
fn send(name: &str, state: &str) -> io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("heddle-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        send(path.to_str().unwrap(), "READY=1").unwrap();
        send(&format!("@{abstract_name}"), "STOPPING=1").unwrap();
        let mut received = [0; 32];
        let n = by_path.recv(&mut received).unwrap();
        assert_eq!(&received[..n], b"READY=1");
        let n = by_name.recv(&mut received).unwrap();
        assert_eq!(&received[..n], b"STOPPING=1");
        assert!(send("/no/such/socket", "READY=1").is_err());
    }
}
