//! Tests AF_XDP: makes a veth pair in a network namespace of its own, opens a port on it, and sends a packet through it both ways.
//!
//! The packet is IPv4 and goes through the receiving kernel's IP input, where kernels with the fault of
//! [`crate::KernelFitness::Panics`] panic. So the caller first writes a marker that the test was started.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use heddle_linux::netns::unshare_thread;
use heddle_linux::{LinuxError, Netlink, link_index, sysctl};
use heddle_port::{PacketVec, Port, PortId, WorkerId, WorkerPool};

use crate::XdpPort;
use crate::anchor::add_veth;
use crate::context::{OpenPort, XdpConfig, XdpContext};
use crate::error::XdpError;

/// The time limit for a packet to pass the veth in one direction.
const PACKET_WITHIN: Duration = Duration::from_secs(1);
const DEVICE: &str = "hdprobe";
const PEER: &str = "hdprobep";

/// The reason for which AF_XDP does not work here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The network namespace for the test cannot be made.
    #[error("cannot make a network namespace to test AF_XDP in: {0} (this needs CAP_SYS_ADMIN)")]
    Namespace(io::Error),
    /// A system call of the test failed that is not AF_XDP's.
    #[error("trying AF_XDP: cannot {what}: {source}")]
    System {
        /// The step.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The port cannot be opened.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// All calls succeeded, but the packet did not arrive.
    #[error(
        "trying AF_XDP: a packet {way} did not arrive within {} ms: this kernel's AF_XDP on veth does not work",
        PACKET_WITHIN.as_millis()
    )]
    Lost {
        /// The direction of the packet, in words.
        way: &'static str,
    },
    /// The test did not end in time.
    #[error("trying AF_XDP did not end within {} s: look at the kernel's log (dmesg)", .0.as_secs_f32())]
    Late(Duration),
}

/// Sends a packet through an AF_XDP port on a veth pair, both ways, in a network namespace of its own, which is removed
/// afterwards. Returns the time that it took, which is at most `within`.
///
/// # Errors
/// The step that failed.
pub fn probe(within: Duration) -> Result<Duration, ProbeError> {
    let start = Instant::now();
    let system = |what| move |source| ProbeError::System { what, source };
    let (done, result) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name("afxdp-probe".to_owned())
        .spawn(move || {
            // Sending fails only if `within` is over and the receiver is gone.
            let _ = done.send(in_own_namespace());
        })
        .map_err(system("start a thread"))?;
    let outcome = result.recv_timeout(within).unwrap_or(Err(ProbeError::Late(within)));
    if !matches!(outcome, Err(ProbeError::Late(_))) {
        // The thread has sent its result, so it ends at once. A panic in it would have the result `Late`.
        let _ = thread.join();
    }
    outcome.map(|()| start.elapsed())
}

/// Runs the test in a new network namespace of the calling thread.
fn in_own_namespace() -> Result<(), ProbeError> {
    unshare_thread().map_err(ProbeError::Namespace)?;
    // Without IPv6 there are no packets of neighbor discovery. The test tolerates them, so an error here is ignored.
    let _ = sysctl::write_if_present("net/ipv6/conf/default/disable_ipv6", "1");
    let system = |what| move |source| ProbeError::System { what, source };
    let refused = |error: LinuxError| ProbeError::System {
        what: "make a veth pair",
        source: error.source,
    };
    let device = Netlink::open()
        .and_then(|netlink| add_veth(&netlink, DEVICE, PEER))
        .map_err(refused)?;
    let mut context = XdpContext::new(XdpConfig {
        frames: 512,
        frame_size: 4096,
        max_pods: 1,
        other_ports: 0,
        working: 256,
        port_numbers: 1,
    })?;
    let mut port = context.open(OpenPort {
        ifname: DEVICE.to_owned(),
        ifindex: device.index,
        queue: 0,
        port: PortId(0),
    })?;
    let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
    let passed = Tap::new(PEER)
        .map_err(system("open a packet socket"))
        .and_then(|tap| there_and_back(&tap, &mut port, &mut pool));
    context.close(port);
    passed
}

/// Sends a packet from the tap to the port and back.
///
/// Plan: send it into the veth and wait until the port has received it; send it by the port and wait until the tap has received
/// it; wait until the kernel has returned the frame.
fn there_and_back(tap: &Tap, port: &mut XdpPort, pool: &mut WorkerPool) -> Result<(), ProbeError> {
    let system = |what| move |source| ProbeError::System { what, source };
    // To the port. Other packets are freed.
    let frame = frame();
    tap.send(&frame).map_err(system("send a packet into a veth"))?;
    let until = Instant::now() + PACKET_WITHIN;
    let mut back = PacketVec::new();
    while back.is_empty() {
        let mut packets = PacketVec::new();
        port.rx(pool, &mut packets);
        for packet in packets {
            if packet.bytes(pool.store()) == frame && !back.is_full() {
                back.push(packet);
            } else {
                pool.free_packet(packet);
            }
        }
        if back.is_empty() && !port.wait_fd().is_some_and(|fd| readable(fd, until)) {
            return Err(ProbeError::Lost {
                way: "from a veth to an AF_XDP socket",
            });
        }
    }
    // Back to the tap, until the frame is complete.
    let until = Instant::now() + PACKET_WITHIN;
    port.tx(pool, &mut back);
    port.flush(pool);
    while tap
        .receive(until)
        .map_err(system("receive a packet"))?
        .ok_or(ProbeError::Lost {
            way: "from an AF_XDP socket to a veth",
        })?
        != frame
    {}
    while port.stats().tx_pending > 0 {
        if Instant::now() > until {
            return Err(ProbeError::Lost {
                way: "(its completion) from the kernel to an AF_XDP socket",
            });
        }
        port.flush(pool);
    }
    Ok(())
}

/// Returns a broadcast IPv4 packet of an experimental protocol (RFC 3692 section 2.1) from a documentation address.
fn frame() -> Vec<u8> {
    let mut header = [
        0x45, 0, 0, 46, 0, 0, 0, 0, 1, 253, 0, 0, 192, 0, 2, 1, 255, 255, 255, 255,
    ];
    let sum: u32 = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[0x02, 0x68, 0x65, 0x64, 0x64, 0x6c, 0x08, 0x00]);
    frame.extend_from_slice(&header);
    frame.extend_from_slice(b"heddle tries AF_XDP here..");
    frame
}

/// A packet socket at one device.
struct Tap(OwnedFd);

impl Tap {
    fn new(name: &str) -> io::Result<Self> {
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

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Receives the next frame. Returns `None` if none arrives in time.
    fn receive(&self, until: Instant) -> io::Result<Option<Vec<u8>>> {
        use std::os::fd::AsFd;
        if !readable(self.0.as_fd(), until) {
            return Ok(None);
        }
        let mut frame = vec![0; 2048];
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
fn readable(fd: BorrowedFd<'_>, until: Instant) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_header_sums_up() {
        let frame = frame();
        assert_eq!(frame.len(), 60);
        let sum: u32 = frame[14..34]
            .chunks(2)
            .map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    /// Needs root, as AF_XDP does.
    #[test]
    fn the_probe_succeeds_and_leaves_no_device() {
        let took = probe(Duration::from_secs(10)).unwrap();
        assert!(took < Duration::from_secs(10));
        assert_eq!(link_index(DEVICE).unwrap(), None);
    }

    /// Needs root, as AF_XDP does.
    #[test]
    fn the_probes_time_is_bounded() {
        let error = probe(Duration::ZERO).unwrap_err();
        assert!(matches!(error, ProbeError::Late(_)), "{error}");
    }
}
