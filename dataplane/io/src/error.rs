//! The errors of AF_XDP. Each contains the value and the remedy.

use std::io;

use heddle_port::{PortId, PortRefused, TooFewFrames};

use crate::mode::XdpMode;

/// The reason for which a context or a port could not be made.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The process lacks capabilities that AF_XDP needs.
    #[error("missing {missing}: run heddle as root, or grant it (container: privileged, or these capabilities)")]
    MissingCapability {
        /// The capabilities that are missing, by name.
        missing: String,
    },
    /// The kernel lacks multi-buffer AF_XDP.
    #[error("kernel {release} is too old: heddle needs 6.6 or later (multi-buffer AF_XDP)")]
    KernelTooOld {
        /// The kernel's release.
        release: String,
    },
    /// The kernel panics when a copy-mode socket sends into a veth.
    #[error(
        "kernel {release} panics when AF_XDP sends into a veth (CVE-2025-40290): run 6.17.11 or later, 6.18 or later, \
         or a 6.12 or 6.6"
    )]
    KernelPanics {
        /// The kernel's release.
        release: String,
    },
    /// The name of the kernel's release does not contain its stable release (such as 6.17.11), and some releases of its series panic.
    #[error(
        "kernel {release} may panic when AF_XDP sends into a veth (CVE-2025-40290): its name does not contain its stable \
         release, and some releases of its series panic; run 6.17.11 or later, 6.18 or later, or a 6.12 or 6.6"
    )]
    KernelMayPanic {
        /// The kernel's release.
        release: String,
    },
    /// The device does not exist in this network namespace, or has another index.
    #[error("device {ifname} (index {ifindex}) is not in this network namespace")]
    NoSuchDevice {
        /// The device's name.
        ifname: String,
        /// The index that was expected.
        ifindex: u32,
    },
    /// The name is not a valid device name.
    #[error("{ifname:?} is not a device's name: 1 to 15 characters without a NUL")]
    BadName {
        /// The name.
        ifname: String,
    },
    /// The device is down.
    #[error("device {ifname} is down: set it up before it is opened (ip link set dev {ifname} up)")]
    DeviceDown {
        /// The device's name.
        ifname: String,
    },
    /// The device has no such queue, or cannot be used with AF_XDP.
    #[error("device {ifname} has no queue {queue}, or does not support AF_XDP (see `ethtool -l {ifname}`): {source}")]
    NoSuchQueue {
        /// The device's name.
        ifname: String,
        /// The queue.
        queue: u32,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another socket is bound to the queue.
    #[error(
        "queue {queue} of device {ifname} is still bound to another AF_XDP socket after {waited_ms} ms: \
         is another heddle running in this network namespace?"
    )]
    QueueBusy {
        /// The device's name.
        ifname: String,
        /// The queue.
        queue: u32,
        /// The time that heddle waited, in milliseconds.
        waited_ms: u128,
    },
    /// The device's driver does not support XDP programs.
    #[error("device {ifname} does not support XDP in native mode ({source}): heddle's ports must be veths")]
    NoNativeXdp {
        /// The device's name.
        ifname: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The UMEM is larger than the memory that the process may lock.
    #[error(
        "{bytes} bytes of packet memory are more than the process may lock: raise the limit (ulimit -l, \
         LimitMEMLOCK=infinity), grant CAP_IPC_LOCK or lower frames"
    )]
    MemoryLock {
        /// The UMEM's size.
        bytes: u64,
    },
    /// The frames do not suffice for the ports.
    #[error(transparent)]
    TooFewFrames(#[from] TooFewFrames),
    /// As many ports are open as frames are set aside for.
    #[error(transparent)]
    TooManyPorts(#[from] PortRefused),
    /// A value of the configuration is not valid.
    #[error("{key} = {value} cannot be: {rule}")]
    BadConfig {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The rule that the value breaks.
        rule: &'static str,
    },
    /// The number of a port does not fit the program's map.
    #[error("port number {port} is not below {max}, the size of the XDP program's map of ports")]
    PortNumber {
        /// The number.
        port: PortId,
        /// The map's size.
        max: u32,
    },
    /// A port of this number is open.
    #[error("port {port} is open already")]
    PortOpen {
        /// The number.
        port: PortId,
    },
    /// The queues of a device must have consecutive port numbers, and this one does not.
    #[error("queue {queue} of device {ifname} cannot be port {port}: the device's queue 0 is port {base}")]
    PortOrder {
        /// The device's name.
        ifname: String,
        /// The queue.
        queue: u32,
        /// The port's number.
        port: PortId,
        /// The number of the device's first queue.
        base: i64,
    },
    /// The anchor's device is gone, so no socket can be bound.
    #[error("the anchor device {anchor} was deleted, so no port can be opened: restart heddle, and do not delete it")]
    AnchorLost {
        /// The anchor's name.
        anchor: String,
    },
    /// The uplink has an XDP program of another program.
    #[error(
        "device {ifname} has XDP program {id} ({name}), which is not heddle's: remove it (`ip link set dev {ifname} xdp off`, or stop \
         the program that attached it), or choose another uplink"
    )]
    ForeignProgram {
        /// The device's name.
        ifname: String,
        /// The program's id in the kernel.
        id: u32,
        /// The program's name.
        name: String,
    },
    /// The uplink accepts no XDP program.
    #[error("cannot attach the XDP program to {ifname} in {mode} mode: {source} (native mode: {native})")]
    AttachRefused {
        /// The device's name.
        ifname: String,
        /// The mode that was tried last.
        mode: XdpMode,
        /// The kernel's error.
        source: io::Error,
        /// The outcome of the native mode, in words.
        native: String,
    },
    /// The directory for the uplink's pins is in no BPF file system.
    #[error("{path} is in no BPF file system, where the uplink's program is kept: mount one (mount -t bpf bpf {path})")]
    NoBpffs {
        /// The directory.
        path: String,
    },
    /// A map of the uplink's program is full.
    #[error(
        "the map {map} of the uplink's XDP program is full: it has room for {limit} entries, and {wanted} are needed. The packets \
         of the others go to the kernel: {remedy}, or raise the limit"
    )]
    UplinkMapFull {
        /// The map.
        map: &'static str,
        /// Its size.
        limit: u32,
        /// The entries that it should have.
        wanted: usize,
        /// A remedy.
        remedy: &'static str,
    },
    /// Another operation failed in the kernel.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// The step, with the device's name if there is one.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl XdpError {
    pub(crate) fn kernel(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel {
            what: what.into(),
            source: source.into(),
        }
    }

    pub(crate) fn bpf(what: impl Into<String>, error: &libbpf_rs::Error) -> Self {
        Self::Kernel {
            what: what.into(),
            source: bpf_io(error),
        }
    }
}

/// Converts an error of libbpf-rs to an I/O error, with its kind and text but without an errno, which libbpf-rs does not expose.
pub(crate) fn bpf_io(error: &libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::NotFound => io::ErrorKind::NotFound,
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::Unsupported => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{error:#}"))
}
