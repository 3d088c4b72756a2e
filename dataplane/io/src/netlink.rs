//! The requests of rtnetlink(7) that the anchor takes: make a veth pair and set it up, delete a device;
//! and what is asked about devices by other calls.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A netlink message under construction: header, fixed part, attributes.
struct Message(Vec<u8>);

impl Message {
    /// `struct nlmsghdr`; its length is set at the end.
    fn new(kind: u16, flags: i32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or(0);
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&1u32.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        Self(bytes)
    }

    /// `struct ifinfomsg`.
    fn interface(&mut self, index: u32, flags: u32) {
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&index.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
    }

    /// An attribute that holds what `content` adds.
    fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        content(self);
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn string(&mut self, kind: u16, text: &str) {
        self.nest(kind, |message| {
            message.0.extend_from_slice(text.as_bytes());
            message.0.push(0);
        });
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// Makes a veth pair, both ends up, in the calling thread's network namespace.
pub(crate) fn add_veth(name: &str, peer: &str) -> io::Result<()> {
    const VETH_INFO_PEER: u16 = 1;
    let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    message.interface(0, 0);
    message.string(libc::IFLA_IFNAME, name);
    message.nest(libc::IFLA_LINKINFO, |message| {
        message.string(libc::IFLA_INFO_KIND, "veth");
        message.nest(libc::IFLA_INFO_DATA, |message| {
            message.nest(VETH_INFO_PEER, |message| {
                message.interface(0, 0);
                message.string(libc::IFLA_IFNAME, peer);
            });
        });
    });
    request(&message.finish())?;
    // Not in the same request: an end cannot go up before the other one is there.
    for end in [name, peer] {
        let index = index_of(end).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.interface(index, libc::IFF_UP as u32);
        request(&message.finish())?;
    }
    Ok(())
}

/// Deletes a device of the calling thread's network namespace; of a veth pair, both ends.
pub(crate) fn delete(index: u32) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_DELLINK, 0);
    message.interface(index, 0);
    request(&message.finish())
}

/// The index of the device of that name in the calling thread's network namespace.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Whether the device of that name is set up.
pub(crate) fn is_up(name: &str) -> io::Result<bool> {
    // SAFETY: a plain C struct, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    let socket = open()?;
    // SAFETY: the request is a valid ifreq with a NUL-terminated name, as SIOCGIFFLAGS takes; any socket serves.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has just set this member of the union.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: plain socket(2); the result is checked.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends one request and waits for its acknowledgement.
fn request(message: &[u8]) -> io::Result<()> {
    let socket = open()?;
    // SAFETY: the buffer is valid for its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [0u8; 4096];
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let Ok(got) = usize::try_from(got) else {
        return Err(io::Error::last_os_error());
    };
    acknowledgement(&answer[..got.min(answer.len())])
}

/// The error in `struct nlmsgerr`, which follows the header of an NLMSG_ERROR message; 0 is success.
fn acknowledgement(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer
        .get(16..20)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(kind), Some(0)) if i32::from(kind) == libc::NLMSG_ERROR => Ok(()),
        (Some(kind), Some(code)) if i32::from(kind) == libc::NLMSG_ERROR => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "netlink answered with something else than an acknowledgement",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_and_say_their_length() {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.interface(7, 1);
        message.string(libc::IFLA_IFNAME, "abcd");
        let bytes = message.finish();
        assert_eq!(bytes.len(), 16 + 16 + 12);
        assert_eq!(bytes[..4], 44u32.to_ne_bytes());
        assert_eq!(
            bytes[32..36],
            [9u16.to_ne_bytes(), libc::IFLA_IFNAME.to_ne_bytes()].concat()
        );
        assert_eq!(&bytes[36..], b"abcd\0\0\0\0");
    }

    #[test]
    fn acknowledgements_carry_the_error() {
        let answer = |kind: i32, code: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&u16::try_from(kind).unwrap().to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        acknowledgement(&answer(libc::NLMSG_ERROR, 0)).unwrap();
        let error = acknowledgement(&answer(libc::NLMSG_ERROR, -libc::EEXIST)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        acknowledgement(&answer(libc::NLMSG_DONE, 0)).unwrap_err();
        acknowledgement(&[]).unwrap_err();
    }
}
