//! A packet socket at the far end of the veth.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

use heddle_linux::link_index;

use crate::segment_socket::{PACKET_VNET_HDR, set_option};

/// A packet socket at one device.
pub(super) struct Tap(OwnedFd);

impl Tap {
    /// Opens a socket that receives everything at a device.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        // Every protocol: such a tap gets a packet before IP does, and IP then gets the packet itself and not a copy.
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain socket(2); the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a plain C struct, for which zeros are a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = link_index(name)
            .map_err(|error| error.source)?
            .and_then(|index| i32::try_from(index).ok())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        // SAFETY: the address is valid for its length.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound == 0 {
            Ok(Self(fd))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// From now on, each frame that is sent or received has a header with its segment size before it (`PACKET_VNET_HDR`).
    pub(super) fn with_segment_headers(self) -> io::Result<Self> {
        set_option(&self.0, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        Ok(self)
    }

    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Receives the next frame. Returns `None` if none arrives in time.
    pub(super) fn receive(&self, until: Instant) -> io::Result<Option<Vec<u8>>> {
        if !readable(self.0.as_fd(), until) {
            return Ok(None);
        }
        let mut frame = vec![0; 1 << 17];
        // SAFETY: the buffer is valid for its length.
        let got = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
            )
        };
        let Ok(got) = usize::try_from(got) else {
            return Err(io::Error::last_os_error());
        };
        frame.truncate(got);
        Ok(Some(frame))
    }
}

/// Waits until the descriptor is readable. Returns false if it is not in time.
pub(super) fn readable(fd: BorrowedFd<'_>, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        // After a signal, poll again. No other error can occur, and it would end with the time.
        if ready > 0 {
            return true;
        }
    }
}
