//! A network namespace for each test, and the far end of a veth as a packet socket.

#![allow(dead_code, reason = "each suite uses a part of it")]

pub mod nic;
pub mod segments;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use heddle_io::{OpenPort, XdpConfig, XdpContext, XdpMode};
use heddle_port::{Packet, PacketVec, Port, PortId, WorkerPool};

pub const SOON: Duration = Duration::from_secs(2);
/// The time for which a packet that must not come is waited for.
pub const NEVER: Duration = Duration::from_millis(50);

/// IEEE 802 local experimental, which no other program uses.
pub const ETHERTYPE: u16 = 0x88b5;

/// Runs a test on a thread of its own in a network namespace of its own, which is removed when the thread ends.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        // SAFETY: changes only the calling thread's namespace.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(
            result,
            0,
            "a network namespace (as root): {}",
            io::Error::last_os_error()
        );
        // No neighbour discovery on the devices.
        for which in ["all", "default"] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
        }
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs ip(8) in the thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("ip(8) is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn index(name: &str) -> u32 {
    let name = CString::new(name).unwrap();
    // SAFETY: a NUL-terminated string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Makes a veth pair `NAME` and `NAMEp`, both up.
pub fn veth(name: &str, mtu: u32, queues: u32) {
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    ip(&format!(
        "link add name {name} mtu {mtu} {queues} type veth peer name {name}p mtu {mtu} {queues}"
    ));
    ip(&format!("link set dev {name} up"));
    ip(&format!("link set dev {name}p up"));
}

/// Both modes of the XDP program.
pub const MODES: [XdpMode; 2] = [XdpMode::Native, XdpMode::Generic];

pub fn on(name: &str, port: u16) -> OpenPort {
    on_in(XdpMode::Native, name, port)
}

pub fn on_in(mode: XdpMode, name: &str, port: u16) -> OpenPort {
    OpenPort {
        ifname: name.to_owned(),
        ifindex: index(name),
        queue: 0,
        port: PortId(port),
        mode,
    }
}

/// Runs a test in each mode.
pub fn in_each_mode(test: impl Fn(XdpMode) + Send + Copy + 'static) {
    for mode in MODES {
        in_namespace(move || test(mode));
    }
}

/// A packet socket at one end of a veth.
pub struct Tap(OwnedFd);

impl Tap {
    pub fn new(name: &str, ethertype: u16) -> Self {
        // SAFETY: plain system calls; results are checked, the address is valid for its length.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = ethertype.to_be();
            address.sll_ifindex = index(name) as i32;
            let len = size_of::<libc::sockaddr_ll>() as u32;
            let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len);
            assert_eq!(bound, 0, "{name}: {}", io::Error::last_os_error());
            Self(fd)
        }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// Sends a frame, or not: the device may be down or busy.
    pub fn try_send(&self, frame: &[u8]) {
        // SAFETY: the buffer is valid for its length.
        unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }

    /// Receives the next frame, if one arrives in time.
    pub fn receive(&self, wait: Duration) -> Option<Vec<u8>> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, wait.as_millis() as i32) } != 1 {
            return None;
        }
        let mut frame = vec![0; 1 << 16];
        // SAFETY: the buffer is valid for its length.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(usize::try_from(got).unwrap());
        Some(frame)
    }
}

/// Returns a frame of `len` bytes whose content depends on `seed`.
pub fn frame(seed: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
    frame.extend(
        (0..)
            .map(|i: u32| (i.wrapping_mul(31).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8)
            .take(len - 14),
    );
    frame
}

/// Waits by poll(2) until the port has received packets, and returns them.
pub fn receive(port: &mut impl Port, pool: &mut WorkerPool, wait: Duration) -> PacketVec {
    let mut packets = PacketVec::new();
    let until = Instant::now() + wait;
    loop {
        port.rx(pool, &mut packets);
        let left = until.saturating_duration_since(Instant::now());
        if !packets.is_empty() || left.is_zero() {
            return packets;
        }
        let mut poll = libc::pollfd {
            fd: port.wait_fd().unwrap().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32 + 1) };
    }
}

/// Waits until the port has received one packet, and returns it.
pub fn receive_one(port: &mut impl Port, pool: &mut WorkerPool) -> Packet {
    let mut packets = receive(port, pool, Duration::from_secs(2));
    assert_eq!(packets.len(), 1, "one packet in time");
    packets.pop().unwrap()
}

/// Sends packets and waits until their frames are complete.
pub fn send(port: &mut impl Port, pool: &mut WorkerPool, mut packets: PacketVec) {
    let until = Instant::now() + Duration::from_secs(2);
    while !packets.is_empty() || port.stats().tx_pending > 0 {
        port.tx(pool, &mut packets);
        port.flush(pool);
        assert!(Instant::now() < until, "sent in time: {:?}", port.stats());
    }
}

pub fn context() -> XdpContext {
    XdpContext::new(XdpConfig {
        frames: 4096,
        max_pods: 16,
        other_ports: 4,
        ..XdpConfig::default()
    })
    .unwrap()
}

/// Asserts that every port is closed and every frame is back in the pool.
pub fn assert_all_frames(context: &XdpContext) {
    assert_eq!(
        context.pool().free(),
        context.config().frames,
        "{:?}",
        context.store().holders()
    );
    assert_eq!(context.store().outstanding(), 0);
    assert_eq!(context.pool().budget().open_ports(), 0);
}
