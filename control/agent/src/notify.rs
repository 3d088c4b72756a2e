//! The word to the service manager that the agent is ready, by its protocol (sd_notify(3)): a datagram to the socket
//! that `$NOTIFY_SOCKET` names. Without that variable there is nobody to tell.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager `state`, as `READY=1`.
///
/// # Errors
/// There is a socket, and it does not take the word.
pub fn tell(state: &str) -> io::Result<()> {
    match std::env::var("NOTIFY_SOCKET") {
        Ok(name) if !name.is_empty() => send(&name, state),
        _ => Ok(()),
    }
}

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
        let mut word = [0; 32];
        let n = by_path.recv(&mut word).unwrap();
        assert_eq!(&word[..n], b"READY=1");
        let n = by_name.recv(&mut word).unwrap();
        assert_eq!(&word[..n], b"STOPPING=1");
        assert!(send("/no/such/socket", "READY=1").is_err());
    }
}
