//! A NIC for the uplink's tests: a veth whose other end is the wire, a bpffs for the pins, and a far host.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heddle_io::uplink::{Steering, Uplink, UplinkLimits};
use heddle_io::{XdpContext, XdpError, XdpMode, XdpPort};
use heddle_linux::bpffs;
use heddle_port::{PortId, WorkerId, WorkerPool};

use super::{NEVER, SOON, Tap, context, in_namespace, index, ip, receive};

/// Every protocol (`ETH_P_ALL`).
pub const ALL: u16 = 3;

/// A bpffs that only the test sees.
pub struct Pins {
    directory: tempfile::TempDir,
}

impl Pins {
    /// Moves the thread into a mount namespace of its own, and mounts a bpffs there.
    fn new() -> Self {
        let root = c"/";
        // SAFETY: changes only the calling thread's mount namespace; the strings are NUL-terminated or null.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "{}", io::Error::last_os_error());
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            let null = std::ptr::null();
            assert_eq!(libc::mount(null, root.as_ptr(), null, flags, null.cast()), 0);
        }
        let pins = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        bpffs::mount(&pins.path()).unwrap();
        pins
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("bpf")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = bpffs::unmount(&self.path());
    }
}

/// Runs a test in network and mount namespaces of its own, with a directory for pins.
pub fn with_pins(test: impl FnOnce(&Path) + Send + 'static) {
    in_namespace(move || {
        let pins = Pins::new();
        test(&pins.path());
    });
}

/// Makes the device `nic`, whose other end is `nicp`, both up. In generic mode `nicp` has more transmit queues than `nic` has receive
/// queues, and the veth driver then refuses native XDP.
pub fn nic(mode: XdpMode) {
    let queues = if mode == XdpMode::Generic { 2 } else { 1 };
    ip(&format!(
        "link add name nic address 02:00:00:00:00:02 numtxqueues 1 numrxqueues 1 type veth peer name nicp \
         address 02:00:00:00:00:01 numtxqueues {queues} numrxqueues {queues}"
    ));
    ip("link set dev nic up");
    ip("link set dev nicp up");
}

pub fn limits() -> UplinkLimits {
    UplinkLimits {
        queues: 4,
        addresses: 8,
        frontends: 16,
        pods: 4,
        peers: 4,
        forwarders: 4,
        fragments: 1024,
    }
}

pub fn attach(pins: &Path) -> Result<Uplink, XdpError> {
    Uplink::attach("nic", index("nic"), pins, &limits())
}

/// The place where a packet from the wire arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    Heddle,
    Kernel,
}

/// The NIC with a program, an open port, and packet sockets at the wire and at the kernel's side.
pub struct Rig {
    pub uplink: Uplink,
    pub context: XdpContext,
    pub port: XdpPort,
    pub pool: WorkerPool,
    pub wire: Tap,
    pub kernel: Tap,
}

impl Rig {
    pub fn new(pins: &Path, mode: XdpMode, steering: &Steering) -> Self {
        nic(mode);
        Self::on_nic(pins, mode, steering)
    }

    /// Uses a device `nic` that exists, and its wire `nicp`.
    pub fn on_nic(pins: &Path, mode: XdpMode, steering: &Steering) -> Self {
        let mut uplink = attach(pins).unwrap();
        assert_eq!(uplink.mode(), mode);
        uplink.set(steering).unwrap();
        let mut context = context();
        let port = context.open_uplink(&uplink, 0, PortId(0)).unwrap();
        let pool = WorkerPool::new(WorkerId(0), context.pool().clone());
        Self {
            uplink,
            context,
            port,
            pool,
            wire: Tap::new("nicp", ALL),
            kernel: Tap::new("nic", ALL),
        }
    }

    /// Sends a frame from the wire and returns where it arrives, unchanged and only there.
    pub fn send(&mut self, frame: &[u8]) -> At {
        self.wire.send(frame);
        let until = Instant::now() + SOON;
        loop {
            let packets = receive(&mut self.port, &mut self.pool, Duration::from_millis(1));
            if let [packet] = &packets[..] {
                assert_eq!(packet.to_vec(self.context.store()), frame);
                assert_eq!(self.kernel.receive(Duration::ZERO), None, "both got it");
                packets.into_iter().for_each(|packet| self.pool.free_packet(packet));
                return At::Heddle;
            }
            assert!(packets.is_empty());
            if let Some(got) = self.kernel.receive(Duration::ZERO) {
                assert_eq!(got, frame);
                assert!(receive(&mut self.port, &mut self.pool, Duration::ZERO).is_empty());
                return At::Kernel;
            }
            assert!(Instant::now() < until, "nobody got it: {frame:02x?}");
        }
    }

    /// Asserts that a frame arrives nowhere.
    pub fn assert_dropped(&self, frame: &[u8]) {
        self.wire.send(frame);
        assert_eq!(self.kernel.receive(NEVER), None);
    }

    /// Closes the port and asserts that all frames are back.
    pub fn close(mut self) {
        self.context.close(self.port);
        drop(self.pool);
        super::assert_all_frames(&self.context);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A host in a network namespace of its own, on a thread of its own.
pub struct Far(mpsc::Sender<Job>);

impl Far {
    /// Makes the host and moves a device of the calling thread's namespace to it.
    pub fn with(device: &str) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: changes only the calling thread's namespace; gettid(2) has no effects.
            let thread = unsafe {
                assert_eq!(libc::unshare(libc::CLONE_NEWNET), 0);
                libc::gettid()
            };
            ready.send(thread).unwrap();
            for job in queue {
                job();
            }
        });
        let thread = started.recv().unwrap();
        ip(&format!("link set dev {device} netns {thread}"));
        Self(jobs)
    }

    /// Runs a function there and returns its result.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.0.send(Box::new(move || drop(done.send(f())))).unwrap();
        result.recv().expect("the far host's function does not panic")
    }
}

/// Gives a device of the calling thread's namespace one address of each family, and sets it up.
pub fn address(device: &str, host: u8) {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "0").unwrap();
    ip("link set dev lo up");
    ip(&format!("addr add 192.0.2.{host}/24 dev {device}"));
    ip(&format!("addr add fd00::{host}/64 dev {device} nodad"));
    ip(&format!("link set dev {device} up"));
}
