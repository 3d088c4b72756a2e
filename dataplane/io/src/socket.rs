//! The UMEM and the AF_XDP sockets, made with xsk-rs.

use std::error::Error;
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket as XskSocket, TxQueue, Umem};

use crate::error::XdpError;

/// Slots of the fill and RX rings: the most frames in a port's fill ring.
pub(crate) const RX_SLOTS: u32 = heddle_port::FillBudget::CEILING;
/// Slots of the TX and completion rings: a burst of packets of 16 frames each.
pub(crate) const TX_SLOTS: u32 = 1024;
/// The time for which binding is retried while the queue is busy. The kernel frees a closed socket's queue after a delay.
const BUSY_FOR: Duration = Duration::from_secs(3);
/// The pause between two attempts to bind.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// The socket option for the most descriptors that one `sendto` sends in copy mode (`include/uapi/linux/if_xdp.h`, since Linux
/// 6.17).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// The send buffer: the bytes of packets that may be in the kernel on their way from a socket. The default is less than four
/// packets of 61 kB, and `sendto` would stop before the ring is empty.
const SEND_BUFFER: libc::c_int = 8 << 20;

fn invalid(error: impl Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Returns the I/O error below an error of xsk-rs.
fn cause(error: &(dyn Error + 'static)) -> io::Error {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Makes the UMEM. Returns it and its address.
pub(crate) fn umem(frames: u32, frame_size: u32) -> Result<(Umem, NonNull<u8>), XdpError> {
    let failed = |error: io::Error| XdpError::kernel("make the UMEM", error);
    let config = || -> io::Result<UmemConfig> {
        UmemConfig::builder()
            .frame_size(FrameSize::new(frame_size).map_err(invalid)?)
            .fill_queue_size(QueueSize::new(RX_SLOTS).map_err(invalid)?)
            .comp_queue_size(QueueSize::new(TX_SLOTS).map_err(invalid)?)
            .build()
            .map_err(invalid)
    };
    let count = NonZeroU32::new(frames).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let (umem, descriptors) =
        Umem::new(config().map_err(failed)?, count, false).map_err(|error| match cause(&error) {
            source if source.raw_os_error() == Some(libc::ENOBUFS) => XdpError::MemoryLock {
                bytes: u64::from(frames) * u64::from(frame_size),
            },
            source if source.raw_os_error() == Some(libc::EPERM) => XdpError::MissingCapability {
                missing: "CAP_NET_RAW (AF_XDP sockets)".to_owned(),
            },
            source => failed(source),
        })?;
    let first = descriptors
        .first()
        .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    // SAFETY: the descriptor is of this UMEM, and no other code accesses the memory yet.
    let data = unsafe { umem.data(first) }.contents().as_ptr().addr();
    // The UMEM is mapped memory, which no Rust allocation has provenance over. The first packet lies behind its base by the
    // headroom, which is the first descriptor's offset.
    let base = NonNull::new(ptr::with_exposed_provenance_mut(data - first.addr()));
    base.map(|base| (umem, base))
        .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))
}

/// A bound socket. Dropping it closes it. The kernel then accesses none of its frames any more.
///
/// xsk-rs's queues are kept because they own the socket. [`crate::ring`] accesses the rings.
pub(crate) struct Socket {
    rx: RxQueue,
    _tx: TxQueue,
    _fill: FillQueue,
    _completion: CompQueue,
}

impl Socket {
    /// Binds a socket to a queue of a device. Retries for [`BUSY_FOR`] while the queue is busy.
    pub(crate) fn bind(umem: &Umem, ifname: &str, queue: u32) -> Result<Self, XdpError> {
        let failed = |error: io::Error| XdpError::kernel(format!("bind to {ifname}"), error);
        let config = || -> io::Result<SocketConfig> {
            Ok(SocketConfig::builder()
                .rx_queue_size(QueueSize::new(RX_SLOTS).map_err(invalid)?)
                .tx_queue_size(QueueSize::new(TX_SLOTS).map_err(invalid)?)
                .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
                .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG)
                .build())
        };
        let config = config().map_err(failed)?;
        let device = Interface::from_str(ifname).map_err(|_| XdpError::BadName {
            ifname: ifname.to_owned(),
        })?;
        let start = Instant::now();
        loop {
            // The attempt.
            // SAFETY: libxdp loads no program (INHIBIT_PROG_LOAD).
            let error = match unsafe { XskSocket::new(config, umem, &device, queue) } {
                Ok((tx, rx, Some((fill, completion)))) => {
                    let socket = Self {
                        rx,
                        _tx: tx,
                        _fill: fill,
                        _completion: completion,
                    };
                    socket.widen_send_buffer();
                    socket.raise_send_budget();
                    return Ok(socket);
                }
                // The new socket has no fill and completion rings of its own, because this process has another one on the queue.
                Ok((_, _, None)) => io::Error::from_raw_os_error(libc::EBUSY),
                Err(error) => cause(&error),
            };
            // Retry, or translate the error.
            return Err(match error.raw_os_error() {
                Some(libc::EBUSY) if start.elapsed() < BUSY_FOR => {
                    thread::sleep(BUSY_PAUSE);
                    continue;
                }
                Some(libc::EBUSY) => XdpError::QueueBusy {
                    ifname: ifname.to_owned(),
                    queue,
                    waited_ms: start.elapsed().as_millis(),
                },
                Some(libc::ENETDOWN) => XdpError::DeviceDown {
                    ifname: ifname.to_owned(),
                },
                Some(libc::EINVAL | libc::EOPNOTSUPP) => XdpError::NoSuchQueue {
                    ifname: ifname.to_owned(),
                    queue,
                    source: error,
                },
                _ => failed(error),
            });
        }
    }

    /// Returns the socket's descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as the queue, which is borrowed with `self`.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Returns the kernel's counters.
    pub(crate) fn statistics(&self) -> Option<xsk_rs::socket::XdpStatistics> {
        self.rx.fd().xdp_statistics().ok()
    }

    /// Raises the send buffer to [`SEND_BUFFER`].
    fn widen_send_buffer(&self) {
        let bytes = SEND_BUFFER;
        // SAFETY: the value is valid for its length. On an error the default stays.
        unsafe {
            libc::setsockopt(
                self.fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                (&raw const bytes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
    }

    /// Lets one call send the whole TX ring.
    fn raise_send_budget(&self) {
        let descriptors = TX_SLOTS;
        // SAFETY: the value is valid for its length. On kernels before 6.17 the call fails, and one call sends at most 32.
        unsafe {
            libc::setsockopt(
                self.fd().as_raw_fd(),
                libc::SOL_XDP,
                XDP_MAX_TX_SKB_BUDGET,
                (&raw const descriptors).cast(),
                size_of::<u32>() as libc::socklen_t,
            );
        }
    }

    /// Lets the kernel send the TX ring; before Linux 6.17 at most 32 descriptors in one call.
    pub(crate) fn send(&self) -> io::Result<()> {
        // SAFETY: no buffer and no address are given.
        let result = unsafe {
            libc::sendto(
                self.fd().as_raw_fd(),
                ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null(),
                0,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Wakes the kernel to take frames from the fill ring.
    pub(crate) fn wake_receiver(&self) {
        // SAFETY: no buffer and no address are given. An error is ignored, because the next burst tries again.
        unsafe {
            libc::recvfrom(
                self.fd().as_raw_fd(),
                ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            );
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.fd()).finish()
    }
}
