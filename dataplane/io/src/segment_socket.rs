//! The packet socket by which a port sends large TCP segments.
//!
//! An AF_XDP socket cannot tell the kernel a segment size: a packet larger than the path behind the receiver arrives as one huge
//! packet, and a receiver that forwards cannot cut it again. A packet socket with `PACKET_VNET_HDR` (packet(7)) passes the segment
//! size on, and leaves the checksum of the payload unfinished, which nobody computes if the receiver is on this machine.
//!
//! The socket receives nothing (protocol 0), so it takes no packet away from the XDP program. It sends to the peer of one device
//! only, and closes with its port.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heddle_port::{FrameStore, Packet};

use crate::error::XdpError;
use crate::segment_header::SegmentHeader;

/// The send buffer: the bytes of segments that may be in the kernel on their way. The default is less than four segments of 64 kB.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// include/uapi/linux/if_packet.h
pub(crate) const PACKET_VNET_HDR: libc::c_int = 15;

/// Counters of the segments of one port, which any thread may read.
#[derive(Debug, Default)]
pub(crate) struct SegmentCounters {
    sent: AtomicU64,
    refused: AtomicU64,
    invalid: AtomicU64,
}

/// The counts of large segments of one port.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SegmentCounts {
    /// Segments that the kernel has taken.
    pub sent: u64,
    /// Attempts that the kernel refused for lack of memory, or because the device was down. The worker tries once more.
    pub refused: u64,
    /// Packets that are no TCP segments, or that the kernel does not accept. They are dropped.
    pub invalid: u64,
}

impl SegmentCounters {
    /// Returns the counts.
    pub(crate) fn read(&self) -> SegmentCounts {
        SegmentCounts {
            sent: self.sent.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            invalid: self.invalid.load(Ordering::Relaxed),
        }
    }
}

/// The outcome of one attempt to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sending {
    /// The kernel has the packet, and the frames are free.
    Sent,
    /// The kernel has no room for it now.
    Refused,
    /// The device is down or gone.
    Down,
    /// The packet can never be sent.
    Invalid,
}

/// A packet socket at one device.
#[derive(Debug)]
pub(crate) struct SegmentSocket {
    /// A `File`, because writing to it is sending a packet.
    file: File,
    counters: Arc<SegmentCounters>,
}

impl SegmentSocket {
    /// Opens a socket that sends by a device and receives nothing.
    pub(crate) fn bind(ifname: &str, ifindex: u32) -> Result<Self, XdpError> {
        let failed =
            |error: io::Error| XdpError::kernel(format!("open a packet socket for segments at {ifname}"), error);
        let fd = open(ifindex).map_err(failed)?;
        Ok(Self {
            file: File::from(fd),
            counters: Arc::default(),
        })
    }

    /// Returns the counters.
    pub(crate) fn counters(&self) -> &Arc<SegmentCounters> {
        &self.counters
    }

    /// Sends a packet with its segment size. The kernel copies it, so its frames are free afterwards.
    pub(crate) fn send(&mut self, store: &FrameStore, packet: &mut Packet) -> Sending {
        let outcome = self.try_send(store, packet);
        let counter = match outcome {
            Sending::Sent => &self.counters.sent,
            Sending::Refused | Sending::Down => &self.counters.refused,
            Sending::Invalid => &self.counters.invalid,
        };
        // One thread writes. The others read whole words.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        outcome
    }

    fn try_send(&mut self, store: &FrameStore, packet: &mut Packet) -> Sending {
        let (len, size) = (packet.len(), packet.segment_size());
        let Some(header) = SegmentHeader::prepare(packet.bytes_mut(store), len, size) else {
            return Sending::Invalid;
        };
        // The header and each frame of the chain are sent from where they are.
        let header = header.bytes();
        let mut slices = [IoSlice::new(&[]); 1 + Packet::MAX_FRAMES as usize];
        slices[0] = IoSlice::new(&header);
        let mut count = 1;
        for (slice, chunk) in slices[1..].iter_mut().zip(packet.chunks(store)) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        loop {
            let Err(error) = self.file.write_vectored(&slices[..count]) else {
                return Sending::Sent;
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => return Sending::Refused,
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => return Sending::Down,
                _ => return Sending::Invalid,
            }
        }
    }
}

/// Opens and binds a socket.
fn open(ifindex: u32) -> io::Result<OwnedFd> {
    // Protocol 0: the socket receives nothing.
    // SAFETY: plain socket(2); the result is checked.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    // Not PACKET_QDISC_BYPASS: past the queueing discipline, the kernel drops what it would have to cut (`__dev_direct_xmit`).
    set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
    // SAFETY: a plain C struct, for which zeros are a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: the address is valid for its length.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Sets an option of a socket.
pub(crate) fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is valid for its length.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
